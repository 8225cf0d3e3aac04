# %% [markdown]
# # Your own images: which labels are wrong, and a better classifier
#
# From a folder of images, some of them mislabelled, to a report of the labels that are probably wrong, corrected
# labels, and a model that another program loads. Any runtime will do; on a CPU it is small.

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
# ## The images
#
# A folder for each class, with images in it: `FOLDER/cat/1.jpg`, `FOLDER/dog/2.png`. A part is held out to test on,
# with its labels as they are; if there is `FOLDER/train/…` and `FOLDER/test/…`, that is taken.

# %%
FOLDER = ""  # of your images; "" makes one to try with

# From Google Drive:
# from google.colab import drive
# drive.mount("/content/drive")
# FOLDER = "/content/drive/MyDrive/my_images"

# %%
import pathlib

import numpy as np
from PIL import Image

import robustjax

flipped = set()  # of the folder that is made here we know which labels are wrong, to judge by at the end
if not FOLDER:
    FOLDER = "my_images"
    digits = robustjax.load("digits")
    rng = np.random.default_rng(0)
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for number, (image, label) in enumerate(zip(digits.train_inputs, digits.train_labels, strict=True)):
        shown = int(label)
        if rng.random() < 0.2:  # a fifth of the labels is wrong
            shown = int((label + rng.integers(1, 10)) % 10)
            flipped.add(f"{names[shown]}/{number:04d}.png")
        place = pathlib.Path(FOLDER, names[shown], f"{number:04d}.png")
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(place)
    print(f"{len(digits.train_labels)} images made, {len(flipped)} of them in the wrong folder")

# %% [markdown]
# ## Train
#
# ELR holds on to what the network believed before it began to learn wrong labels by heart. Size and number of your
# images decide network and epochs where you do not. The curve is the accuracy on held-out images *as labelled*: with a
# fifth of the labels wrong, a perfect classifier has about 80 %.

# %%
SETTINGS = {"model": "mlp", "epochs": 12, "batch_size": 64, "learning_rate": 0.05} if SMALL else {}
RUN = "runs/my_images"
summary = cells.train(RUN, method="elr", dataset=f"folder:{FOLDER}", cache_dir="decoded", **SETTINGS)

# %% [markdown]
# ## The report
#
# `report.html` is one page without network: how many labels are probably wrong, with an interval; which classes are
# taken for which; the most suspicious images of each class. Open it from the file browser. Its list:

# %%
import csv
import json

audit = json.loads(pathlib.Path(RUN, "audit.json").read_text())
wrong = audit["estimated_wrong"]
if audit["ranks_only"]:
    print("how many labels are wrong this run cannot tell")
else:
    print(f"about {wrong['count']:.0f} of {audit['examples']} labels are wrong, at most {wrong['high']:.0f}")
with open(f"{RUN}/suspects.csv", newline="", encoding="utf-8") as file:
    suspects = list(csv.DictReader(file))
for row in suspects[:8]:
    print(f"{row['id']:22} given {row['given']:6} proposed {row['proposed']:6} score {float(row['score']):.2f}")

# %%
from matplotlib.figure import Figure

figure = Figure(figsize=(8, 2.2), layout="constrained")
for ax, row in zip(figure.subplots(1, 8), suspects, strict=False):
    ax.imshow(Image.open(pathlib.Path(FOLDER, row["id"])), cmap="gray")
    ax.set_title(f"{row['given']}?\n{row['proposed']}", fontsize=9)
    ax.axis("off")
cells.picture(figure)

# %% [markdown]
# Above each image the label that it has, and what is proposed. If the folder was made here, we can judge the list:

# %%
if flipped:
    listed = [row["id"] in flipped for row in suspects[: round(wrong["count"])]]
    print(f"of the {len(listed)} most suspicious labels {100 * np.mean(listed):.0f} % are wrong")

# %% [markdown]
# ## Corrected labels
#
# Write `keep`, `relabel`, `remove` or a class into the column `decision` of `suspects.csv`, in any spreadsheet. Then
# the command below writes corrected labels to train on; `--accept-above=0.9` decides where you have not: of the labels
# that are so probably wrong it takes what is proposed if that is as sure, and leaves the image out if not.

# %%
from experiments import audit as auditing

cells.command(auditing.main, RUN, "--apply=corrected.csv", "--accept-above=0.9", "--cache-dir=decoded")

# %% [markdown]
# ## The model leaves
#
# A folder with the network as one program (images uint8 in, probabilities out; preprocessing inside), which needs `jax`
# and `flatbuffers`, and neither robustjax nor your data.

# %%
from experiments import export

cells.command(export.main, RUN, "my_model")

# %%
import runpy

model = runpy.run_path("my_model/load.py")
path = next(pathlib.Path(FOLDER).rglob("*.png" if flipped else "*.*"))
wanted = json.loads(pathlib.Path("my_model/model.json").read_text())["inputs"]["shape"]
image = Image.open(path).convert("L" if wanted[-1] == 1 else "RGB").resize((wanted[2], wanted[1]))
probabilities = np.asarray(model["predict"](np.asarray(image, np.uint8).reshape(1, *wanted[1:])))[0]
print(path.name, "is", model["class_names"][probabilities.argmax()], f"({100 * probabilities.max():.0f} %)")
