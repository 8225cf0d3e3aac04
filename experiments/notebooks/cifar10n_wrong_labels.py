# %% [markdown]
# # Which labels of CIFAR-10-N are wrong?
#
# CIFAR-10-N (Wei et al., ICLR 2022) has labels that people gave to CIFAR-10's training images, three each; in the set
# "worse" 40 % are wrong. A network is trained on those labels alone, says which it does not believe, and is judged by
# the true ones, which it has not seen. Small, it is the digits of scikit-learn with labels made wrong, in the same
# cells.
#
# The labels are one file, `CIFAR-10_human.pt` of https://github.com/UCSC-REAL/cifar-10-100n (`data/`); its path goes
# below. It is read without torch, and nothing that a pickle could run is run.

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

LABELS = "CIFAR-10_human.pt"  # of UCSC-REAL/cifar-10-100n
WHICH = "worse"  # or aggregate, random1, random2, random3

if SMALL:
    dataset = robustjax.load("digits")
    given = robustjax.corruptions.symmetric(dataset.train_labels, 0.3, dataset.num_classes, key=0)
    settings = {"model": "mlp", "epochs": 15, "batch_size": 64, "learning_rate": 0.05}
else:
    from experiments.settings import human_labels

    dataset = robustjax.load("cifar10")
    given, _ = human_labels.read(f"cifar10n:{WHICH}:{LABELS}", dataset)
    settings = {
        "model": "resnet32",
        "epochs": 60,
        "batch_size": 128,
        "learning_rate": 0.05,
        "augmentation": "crop-flip",
    }
truth = dataset.train_labels
print(f"{dataset.name}: {len(given)} labels, {100 * np.mean(given != truth):.1f} % of them wrong")

# %% [markdown]
# ## Train on the given labels
#
# ELR, which does not let go of what it believed early. Test accuracy below is by true labels, since the test part has
# them.

# %%
fitted = robustjax.fit(
    dataset, given, method="elr", on_epoch=cells.follow("runs/people"), out="runs/people", **settings
)

# %% [markdown]
# ## What it does not believe
#
# The list of suspects, most suspicious first, and how many labels it takes for wrong, and at most how many (95 %).

# %%
suspects = fitted.suspects()
columns = {name: list(suspects[name]) for name in ("id", "given", "proposed", "score")}
wrong = fitted.audit["estimated_wrong"]
print(f"estimated: {wrong['count']:.0f} labels are wrong (at most {wrong['high']:.0f})")
print(f"they are:  {np.sum(given != truth)}")
for row in list(zip(*columns.values(), strict=True))[:8]:
    print("image {:>6}: given {:>10}, proposed {:>10}, score {:.2f}".format(*row))

# %% [markdown]
# ## Judged by the truth
#
# Of the labels at the top of the list, how many are wrong (precision), and how many of the wrong ones are among them
# (recall)? The dashed line is the number that was estimated.

# %%
from matplotlib.figure import Figure

order = np.array([int(each) for each in columns["id"]])
hits = np.cumsum(given[order] != truth[order])
count = np.arange(1, len(order) + 1)
figure = Figure(figsize=(6, 3), layout="constrained")
ax = figure.subplots()
ax.plot(count, hits / count, label="precision")
ax.plot(count, hits / np.sum(given != truth), label="recall")
ax.axvline(wrong["count"], color="gray", linestyle="--")
ax.set(xlabel="labels from the top of the list", ylim=(0, 1.02), title=f"suspicious labels of {dataset.name}")
ax.legend()
cells.picture(figure)

# %% [markdown]
# The most suspicious images, with the label that they have and the one that is proposed. Whether the proposal is the
# true class is in green or red.

# %%
figure = Figure(figsize=(8, 2.9), layout="constrained")
for ax, place, name, better in zip(
    figure.subplots(2, 8).ravel(), order, columns["given"], columns["proposed"], strict=False
):
    ax.imshow(dataset.train_inputs[place].squeeze(), cmap="gray")
    right = better == dataset.class_names[truth[place]]
    ax.set_title(f"{name}?\n{better}", fontsize=9, color="green" if right else "red")
    ax.axis("off")
cells.picture(figure)
