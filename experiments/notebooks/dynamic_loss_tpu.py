# %% [markdown]
# # Dynamic Loss on a TPU
#
# A long-tailed CIFAR-10 with wrong labels, trained by Dynamic Loss (Jiang et al., TPAMI 2023): a small second network
# learns, from the training set itself, how much each label is to be believed and how much room each class needs.
#
# *Runtime*: a TPU, on Colab one chip (v5e-1 or v6e-1), on Kaggle eight (v5e-8); all that there are are used. A GPU does
# as well. On a CPU everything is small: the digits of scikit-learn in place of CIFAR-10, and few epochs. The outputs
# below are of such a run, to show what comes; **this notebook has not been run on a TPU yet**, so it promises no times.

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

# %% [markdown]
# ## What is trained
#
# `dataset`, `method`, `noise_rate` are what `python -m experiments.run` calls `--dataset`, `--method`, `--noise-rate`.
# For CIFAR-10 and for digits the recipe of Dynamic Loss brings the rest: a long tail and labels that are wrong in
# proportion to how frequent the classes are that they are taken for. CIFAR-10 comes through TFDS, 160 MB, once.

# %%
if SMALL:
    SETTINGS = {
        "method": "dynamic_loss",
        "dataset": "digits",
        "model": "mlp",
        "epochs": 30,
        "batch_size": 32,
        "learning_rate": 0.05,
    }
else:
    SETTINGS = {"method": "dynamic_loss", "dataset": "cifar10", "model": "resnet32", "noise_rate": 0.2}  # 300 epochs

# Where runs are kept. A runtime forgets its disk: with Google Drive a run that was cut goes on where it was,
# from google.colab import drive; drive.mount("/content/drive"); RUNS = "/content/drive/MyDrive/runs"
RUNS = "runs"

# %% [markdown]
# ## Three seeds
#
# With several chips each seed has chips of its own (`parallel="seeds"`: three seeds use three of eight; take eight to
# use all). One chip trains them at once. The figure is drawn anew after each epoch:
#
# - left, test accuracy, a line for each seed;
# - in the middle, the mean weight that the method has learned to give to right and to wrong labels. Nobody tells it
#   which are which; the two lines part once it has found out;
# - right, the learned weights themselves: a row for each class, from the smallest losses of the class to its largest.
#   Dark cells are labels that it has stopped to believe.

# %%
import jax

chips = jax.device_count()
print(f"{chips} chip(s), 3 seeds: " + ("each seed on chips of its own" if chips > 1 else "all at once on the one chip"))
three = cells.train(f"{RUNS}/three-seeds", seeds=3, parallel="seeds", **SETTINGS)

# %% [markdown]
# The table is what the run has come to, seed by seed. The tail is long, so look at *balanced test accuracy*, and at the
# last two AUROCs: how well the label weights and how well the losses tell wrong labels from right ones.
#
# ## One seed, its batch over all chips
#
# `parallel="data"` splits every batch. On one chip it is the same program with nothing to split. A step is written for
# the whole batch, so the result does not depend on the number of chips but for the order in which floats are added.

# %%
one = cells.train(f"{RUNS}/one-seed", seeds=1, parallel="data", **SETTINGS)

# %%
accuracy = [each["test_accuracy_last"] for each in three["seeds"]]
print(f"seed 0 alone {100 * one['seeds'][0]['test_accuracy_last']:.1f} %, among three {100 * accuracy[0]:.1f} %")
print(f"seconds: {three['seconds']:.0f} for three seeds, {one['seconds']:.0f} for one, compiling included")

# %% [markdown]
# ## What it has learned
#
# The margins, which are added to the logits in training only (balanced softmax adds the logarithms of the counts
# there): frequent classes get the larger ones, so that the network itself need not prefer them. And the label weights
# of the last epoch, over right and over wrong labels (this figure knows the truth, the method did not).

# %%
cells.picture(f"{RUNS}/one-seed/plots/margin.png", width=420)
cells.picture(f"{RUNS}/one-seed/plots/label_weight.png", width=420)
