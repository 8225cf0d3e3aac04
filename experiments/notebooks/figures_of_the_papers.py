# %% [markdown]
# # The four papers' figures and theorems
#
# What can be seen of HAR, SR, Dynamic Loss and ELR in small runs. Two kinds: simulations of what the papers prove,
# which are computed here as they are, and figures of training runs, which at this size show the effect and not the
# papers' numbers; those need their data sets and networks (`python -m experiments.reproduce --list`).

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
import pathlib

from experiments.figures import elr_theory, har_theory
from experiments.pictures import plots

FIGURES = pathlib.Path("figures")

# %% [markdown]
# ## ELR: a linear model learns the truth first, and then the noise
#
# Section 3 of ELR (Liu et al., NeurIPS 2020): two clusters, labels redrawn at random, gradient descent. With cross
# entropy (CE) the wrong labels are predicted *right* in the beginning and memorised later; with ELR they are not
# memorised.

# %%
if SMALL:
    setup, seeds = elr_theory.Setup(100, 150, 0.2, 0.8, 0.1, 2000), 2
else:
    setup, seeds = elr_theory.SETUPS["b"], elr_theory.SEEDS["b"]
records = {name: elr_theory.simulate(setup, elr_theory.METHODS[name], seeds) for name in ("CE", "ELR")}
cells.picture(plots.draw_lines(elr_theory.memorization_panels(records), 2))

# %% [markdown]
# Why: the gradient's coefficients (its eq. 2). Those of right labels die away as they are learned, so that in the end
# the wrong ones decide.

# %%
cells.picture(plots.draw_lines(elr_theory.gradient_panels(records["CE"]), 2))

# %% [markdown]
# ## HAR: how strong to regularise where
#
# Theorem 1 of HAR (Cao et al., ICLR 2021) says with which powers of density *q* and noise the strength should grow. The
# risk of a smoothing spline, computed, over one exponent while the other is at its value in theory (dotted):

# %%
sizes = {100_000: 300, 10**8: 600} if SMALL else har_theory.ELEMENTS
print(har_theory.draw_exponents(FIGURES / "exponents.png", sizes))
cells.picture(FIGURES / "exponents.png", width=700)

# %% [markdown]
# What that is for (its Fig. 3): a curve that is frequent, fast and clean on the left, and rare, slow and noisy on the
# right. Regularised weakly everywhere a network follows the noise on the right, strongly everywhere it loses the curve
# on the left; a cubic spline, as smooth everywhere, has no better choice; adaptive regularisation does both halves.

# %%
har_theory.draw_toy(FIGURES / "regression.png", steps=1500 if SMALL else 5000)
cells.picture(FIGURES / "regression.png", width=700)

# %% [markdown]
# And its Fig. 1: losses early in training. Among frequent classes a large loss means a wrong label; among all it may as
# well mean a rare class. The second area under the ROC curve, near one half or below, says so.

# %%
print(har_theory.draw_losses(FIGURES / "losses.png", seeds=1 if SMALL else 5))
cells.picture(FIGURES / "losses.png", width=700)

# %% [markdown]
# ## Runs
#
# Digits with 40 % symmetric noise: cross entropy, sparse regularisation (SR, Zhou et al., ICCV 2021) and ELR; then
# Dynamic Loss (Jiang et al., TPAMI 2023) on its long tail.

# %%
NOISY = {
    "dataset": "digits",
    "noise": "symmetric",
    "noise_rate": 0.4,
    "imbalance": "none",
    "imbalance_ratio": 1.0,
    "augmentation": "none",
    "model": "mlp",
    "epochs": 40 if SMALL else 100,
    "batch_size": 32,
    "learning_rate": 0.1,
    "weight_decay": 0.0,
}
for name, chosen in {
    "ce": {"method": "cross_entropy"},
    "sr": {"method": "cross_entropy", "regularizer": "sparse"},
    "elr": {"method": "elr"},
}.items():
    summary = cells.train(f"runs/{name}", quiet=True, live=False, **NOISY, **chosen)
    print(f"{name}: {100 * summary['seeds'][0]['test_accuracy_last']:.1f} % in the last epoch")

# %% [markdown]
# ### SR
#
# Test accuracy by epoch; the share of outputs that are nearly one-hot (sparse rate; the paper's Fig. 3), of the
# network's own and of the sharpened ones that SR is about; t-SNE of the features of test images (its Fig. 1).

# %%
from experiments.figures import elr, sr

paths = [pathlib.Path("runs", name) for name in ("ce", "sr")]
for made in sr.draw(paths, FIGURES / "sr", images=200 if SMALL else 2000):
    cells.picture(made, width=560)

# %% [markdown]
# ### ELR
#
# Test accuracy and that of ELR's targets; then what is predicted for right and for wrong labels (the paper's Fig. 1):
# of the wrong labels cross entropy predicts at first the right class, and then memorises what is given. How far ELR
# prevents that here is what the second row shows.

# %%
for made in elr.draw([pathlib.Path("runs/ce"), pathlib.Path("runs/elr")], FIGURES / "elr"):
    cells.picture(made, width=700)

# %% [markdown]
# ### Dynamic Loss
#
# The share of corrected labels that are right, by epoch, and the learned margins, by class from the most frequent to
# the rarest (the paper's Figs. 5, 6 and 8): frequent classes get the larger ones.

# %%
from experiments.figures import dynamic_loss

size = {"model": "mlp", "epochs": 30, "batch_size": 32, "learning_rate": 0.05} if SMALL else {}
_ = cells.train("runs/dynamic_loss", method="dynamic_loss", dataset="digits", quiet=True, live=False, **size)
for made in dynamic_loss.draw([pathlib.Path("runs/dynamic_loss")], FIGURES / "dynamic_loss"):
    if made.stem in ("correction", "margins"):
        cells.picture(made, width=420)
