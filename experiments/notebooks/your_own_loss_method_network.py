# %% [markdown]
# # A loss, a method and a network of your own
#
# Each is a file that a cell writes; a run names it as `FILE.py:NAME`, and the file's hash is part of the run. They are
# tried on the digits of scikit-learn with 40 % symmetric noise, a minute on a CPU. The accuracies are of one seed and a
# tiny run: they show that it runs, not which is best.

# %%
# What pip installs where robustjax is not there yet: the address of the repository, "git+https://…", or the path of a
# folder with a copy of it.
ROBUSTJAX = ""

import importlib.metadata
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("robustjax") is None:
    if not ROBUSTJAX:
        raise ValueError("robustjax is not installed: write its address into ROBUSTJAX above, and run this cell again.")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", ROBUSTJAX], check=True)
    importlib.invalidate_caches()
    for name in ("numpy", "jax"):  # which the runtime may have loaded before pip replaced them
        if name in sys.modules and sys.modules[name].__version__ != importlib.metadata.version(name):
            raise RuntimeError(f"pip has replaced {name}, which is in use: restart the runtime, then go on here.")

# %%
from experiments.notebooks import cells

print(cells.device())

# The one variable that decides the size. True: minutes on a CPU; False: what the text promises.
SMALL = cells.is_small()  # on a CPU, or where the environment variable ROBUSTJAX_SMALL is 1
print("small" if SMALL else "full size")

# %%
import numpy as np

import robustjax

digits = robustjax.load("digits")
given = robustjax.corruptions.symmetric(digits.train_labels, 0.4, digits.num_classes, key=0)
print(f"{len(given)} labels, {100 * np.mean(given != digits.train_labels):.0f} % of them wrong")

SETTINGS = {"model": "mlp", "epochs": 30 if SMALL else 60, "batch_size": 64, "learning_rate": 0.05, "quiet": True}


def accuracy(fitted):
    """Of the last epoch, on clean test images, in percent."""
    return f"{100 * fitted.summary['seeds'][0]['test_accuracy_last']:.1f} %"


plain = robustjax.fit(digits, given, method="cross_entropy", **SETTINGS)
print("cross entropy:", accuracy(plain))

# %% [markdown]
# ## A loss
#
# A function of logits `[B, C]` and labels `[B]` that gives one value for each example, `[B]`. Means, weights, devices
# and the gradient are the library's business. A loss that mixes examples, or is not finite, is refused before
# training.

# %%
# %%writefile my_loss.py
import jax
import jax.numpy as jnp


def squared(logits, labels):
    """The Brier score: bounded, so that no single wrong label pulls hard."""
    return jnp.sum((jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[-1])) ** 2, axis=-1)


# %%
print("squared:", accuracy(robustjax.fit(digits, given, method="custom", loss="my_loss.py:squared", **SETTINGS)))

# %% [markdown]
# ## A method
#
# A method is a value made of pure functions: `init`, a `step` with the terms of its objective, `predict`, and what it
# has found out about the examples (`inspect`). This one leaves out the largest losses of each batch. Its option `share`
# becomes an argument of `fit`, with the range that its help names, and what it finds is judged and drawn by its kind.

# %%
# %%writefile my_method.py
"""Trimmed cross entropy: each batch's largest losses are left out of its mean."""

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import findings, losses
from robustjax.methods import base


def trimmed(task: base.Task, *, share: float = 0.3) -> base.Method:
    """Cross entropy without the largest losses of each batch.

    Args:
      share: of each batch that is left out, in [0, 1).
    """

    def init(key: jax.Array, labels: np.ndarray) -> base.Learner:
        return base.init_learner(key, task)

    def step(learner, batches, clock, key):
        batch = batches["train"]
        view_key, model_key = jax.random.split(key)

        def terms(logits):
            values = losses.cross_entropy(logits, batch.labels)
            real = jnp.where(batch.mask > 0, jax.lax.stop_gradient(values), jnp.nan)  # padding takes no part
            kept = values <= jnp.nanquantile(real, 1 - share)
            return {"loss": base.Term(values, jnp.where(kept, batch.mask, 0))}

        attempt = base.attempt_on(task, learner, task.strong(view_key, batch.inputs), model_key, terms)
        learner, metrics, _ = base.descend(task, learner, batch, clock, attempt)
        return learner, metrics

    def predict(learner, inputs):
        return base.predict_with(task, learner, inputs)

    def inspect(learner, survey):
        values = losses.cross_entropy(survey.seen, survey.labels)
        return {"suspicion": findings.NoiseScore(1 - jnp.exp(-values))}

    return base.method(init, [base.Stage(task.epochs, base.one_pass(step))], predict, inspect)


# %%
mine = robustjax.fit(digits, given, method="my_method.py:trimmed", share=0.4, **SETTINGS)
print("trimmed:", accuracy(mine))

# %% [markdown]
# Its finding, over right and over wrong labels (drawn because the digits' true labels are known):

# %%
cells.picture(mine.path / "plots" / "suspicion.png", width=460)

# %% [markdown]
# ## A network
#
# A Flax module (Linen or NNX) whose `__call__` takes images and `train`, and gives logits.

# %%
# %%writefile my_network.py
import flax.linen as nn


class Wide(nn.Module):
    """One wide hidden layer."""

    num_classes: int
    width: int = 512

    @nn.compact
    def __call__(self, images, train: bool):
        hidden = nn.relu(nn.Dense(self.width)(images.reshape(len(images), -1)))
        return nn.Dense(self.num_classes)(hidden)


# %%
network = {**SETTINGS, "model": "my_network.py:Wide", "model_options": {"width": 256}}
print("my network:", accuracy(robustjax.fit(digits, given, method="elr", **network)))

# %% [markdown]
# ## A mistake is a sentence
#
# Nothing ends the kernel: a wrong name or value is a `ValueError` before anything is trained.

# %%
for wrong in ({"epoch": 5}, {"learning_rate": -1.0}, {"loss": "my_loss.py:cubed", "method": "custom"}):
    try:
        robustjax.fit(digits, given, **{"method": "cross_entropy", **SETTINGS, **wrong})
    except (ValueError, FileNotFoundError) as error:
        print(f"{type(error).__name__}: {error}")
