"""A run's network as a folder that another program loads: `python -m experiments.export RUN_DIR OUT`.

model.jax         the network with its weights and its preprocessing, a `jax.export` artefact: inputs as stored (images
                  uint8) -> probabilities, for any number of them
model.json        what goes in, what comes out, what it needs, where it is from
class_names.json  a list
vocabulary.txt    of texts: the words, a line a token id
load.py           loads and calls it, without robustjax, on arrays and, if Pillow is there, on image files
README.txt        the same in words

Before the folder appears, `load.py` has run in a process that cannot import robustjax, and gave what the run gives; of
image files it made the same pixels.
"""

import argparse
import contextlib
import functools
import inspect
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from experiments import launch

if __name__ == "__main__":
    launch.begin()  # before JAX is imported

import jax
import jax.export
import numpy as np
from PIL import Image

from experiments import complaints, predict
from experiments.runs import environment, form, records, restore
from robustjax import backend, filesystem
from robustjax.data import array_cache, image_files, text
from robustjax.training import checkpoints

PLATFORMS = ("cpu", "cuda", "tpu")
_KNOWN = (*PLATFORMS, "rocm")
_FORMAT = 1
_SIZES = (1, 2, 7, 500)  # numbers of inputs that an artefact is tried with
# Largest difference of probabilities: of programs that are compiled in other ways, or, in the second case, that have
# products of fewer digits besides (bfloat16, accelerators).
_TOLERANCE, _COARSE = 1e-4, 2e-2
_MOST = 2**31 - 2**24  # bytes: FlatBuffers, in which JAX writes artefacts, end at 2 GiB


class ExportError(RuntimeError):
    """An artefact that cannot be made, or that does not give what the run gives."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, see `complaints.run_main`."""
    return complaints.run_main(
        _obey, argv, lambda: vars(_parser().parse_args([""])), failures=(checkpoints.CheckpointError, ExportError)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.export", description=(__doc__ or "").partition("\n\n")[2], allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("run", metavar="RUN_DIR", help="run directory of a training run")
    parser.add_argument("out", metavar="OUT", nargs="?", help="folder to be made; default: RUN_DIR-export")
    predict.add_network_flags(parser)
    parser.add_argument(
        "--platforms",
        default=",".join(PLATFORMS),
        help="what it shall run on, of cpu, cuda, rocm and tpu (%(default)s)",
    )
    return parser


def _obey(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    out = pathlib.Path(options.out or f"{os.path.normpath(options.run)}-export")
    check_free(out)
    run, seed = predict.restore_networks(options)
    described = export(run, out, seed, tuple(options.platforms.split(",")))
    size, off = (out / "model.jax").stat().st_size, described["checked"]["largest_difference"]
    print(
        f"{out}: {described['made_from']['networks']}, {size / 1e6:.3g} MB. In a process without robustjax it gave the "
        f"run's probabilities (to {off:.1g}) for {', '.join(map(str, _SIZES))} inputs."
    )
    return 0


def check_free(out: pathlib.Path) -> None:
    """Refuse a folder that would be overwritten.

    Raises:
      FileExistsError: for a file, or a folder with something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{str(out)!r} is there already, and not an empty folder; choose another.")


def export(
    run: restore.Trained | restore.Restored,
    out: pathlib.Path,
    k: int | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, Any]:
    """Write the folder `out`, which appears in one move once it has been tried.

    Args:
      run: the networks.
      out: the folder; absent, or empty.
      k: which of the run's seeds, from 0; None for the mean of their probabilities.
      platforms: what the program shall run on.

    Returns:
      What `model.json` says.

    Raises:
      FileExistsError: for a folder with something in it.
      ValueError: for platforms without cpu, or unknown ones.
      ExportError: the network has no form that runs on all platforms for any number of inputs, or is too large; or what
        was written does not give what the run gives.
    """
    check_free(out)
    for name in platforms:
        if name not in _KNOWN or "cpu" not in platforms:
            raise ValueError(
                f"platforms={','.join(platforms)}: some of {', '.join(_KNOWN)} are accepted, and cpu must be among "
                "them, since it is tried there."
            )
    artefact = _program(run, k, platforms)
    described = _described(run, k, artefact)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        folder.chmod(0o755)
        (folder / "model.jax").write_bytes(_serialized(artefact))
        records.write_json_atomic(folder / "class_names.json", list(run.form.class_names))
        if run.form.vocabulary is not None:
            records.write_atomic(folder / "vocabulary.txt", "\n".join(run.form.vocabulary).encode())
        records.write_json_atomic(folder / "model.json", described)
        (folder / "load.py").write_text(_load(run.form), encoding="utf-8")
        described["checked"] = _tried(folder, run, k)
        records.write_json_atomic(folder / "model.json", described)
        (folder / "README.txt").write_text(_readme(run.form, described), encoding="utf-8")
        os.replace(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return described


def _program(run: restore.Trained | restore.Restored, k: int | None, platforms: Sequence[str]) -> jax.export.Exported:
    """Stored inputs [B, …] -> probabilities float32 [B, C], for any B."""
    states = run.states if k is None else [run.states[k]]
    (size,) = jax.export.symbolic_shape("batch")
    inputs = jax.ShapeDtypeStruct((size, *run.form.shape), run.form.dtype)
    # Lowered, not compiled: compile options do not travel with it, so `load.py` has them.
    lowered = jax.jit(functools.partial(restore.mean_probabilities, run.method, states))
    try:
        with _no_places():
            return jax.export.export(lowered, platforms=platforms)(inputs)
    except Exception as error:  # a symbol in place of a number has errors of its own, and a network of one's own any
        told = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"model={run.settings.model!r} cannot be exported for any number of inputs on {', '.join(platforms)}: "
            f"{told}. (A network of your own must not ask for the number of inputs; --platforms=cpu asks for less.)"
        ) from error


@contextlib.contextmanager
def _no_places() -> Iterator[None]:
    """Programs without the paths of the source files that they are from: folders are nobody else's business."""
    name = "jax_hlo_source_file_canonicalization_regex"
    before = jax.config.values[name]
    jax.config.update(name, ".*")
    try:
        yield
    finally:
        jax.config.update(name, before)


def _serialized(artefact: jax.export.Exported) -> bytes:
    if len(artefact.mlir_module_serialized) > _MOST:
        size = len(artefact.mlir_module_serialized) / 2**30
        raise ExportError(
            f"the network takes {size:.1f} GiB, and an artefact may have 2; --seed=S takes one of several."
        )
    try:
        return bytes(artefact.serialize())
    except ImportError as error:
        raise ExportError("writing an artefact needs the package flatbuffers: `pip install flatbuffers`.") from error


def _described(run: restore.Trained | restore.Restored, k: int | None, artefact: jax.export.Exported) -> dict[str, Any]:
    """What model.json says of an artefact."""
    known, settings = run.form, run.settings
    seeds = range(settings.seed, settings.seed + settings.seeds) if k is None else [settings.seed + k]
    meaning = {"uint8": "pixels from 0 to 255", "int32": "integers", "float32": "features, as they were trained on"}
    inputs: dict[str, Any] = {"shape": ["batch", *known.shape], "dtype": known.dtype, "meaning": meaning[known.dtype]}
    if known.is_image:
        inputs["meaning"] = (
            f"{'grey' if known.shape[-1] == 1 else 'RGB'} images [batch, height, width, channels], 0 to 255"
        )
        inputs["resized"] = "bilinear with antialiasing (Pillow's BILINEAR), the aspect ratio not kept"
    if known.num_tokens is not None:
        inputs |= {"meaning": "token ids, 0 for padding", "num_tokens": known.num_tokens}
    if known.vocabulary is not None:
        inputs |= {"words": f"vocabulary.txt, a line an id; {text.SCHEME} of robustjax.data.text"}
    return {
        "format": _FORMAT,
        "inputs": inputs,
        "outputs": {"shape": ["batch", len(known.class_names)], "dtype": "float32", "meaning": "probabilities"},
        "class_names": list(known.class_names),
        "needs": {
            "packages": [f"jax>={jax.__version__}", "flatbuffers"],
            "platforms": list(artefact.platforms),
            "calling_convention_version": artefact.calling_convention_version,
        },
        "made_by": environment.environment(),
        "made_from": {
            "dataset": known.dataset, "method": settings.method, "model": settings.model, "epoch": run.epoch,
            "seeds": list(seeds), "networks": f"the mean of seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1
            else f"seed {seeds[0]}",
        },
    }  # fmt: skip


# What tries an artefact, in a folder with inputs-N.npy: as load.py does, and with XLA's own kernels.
_TRY = """
import pathlib, runpy, sys
sys.modules.update(dict.fromkeys(("robustjax", "experiments", "flax", "optax", "orbax"), None))  # not importable
loaded = runpy.run_path(sys.argv[1])
import numpy as np
for file in pathlib.Path(".").glob("inputs-*.npy"):
    inputs = np.load(file)
    np.save(file.name.replace("inputs", "found"), loaded["predict"](inputs))
    np.save(file.name.replace("inputs", "own"), loaded["program"].call(inputs))
if pathlib.Path("images").is_dir():
    (names, pixels), = loaded["batches"](["images"])
    np.save("pixels.npy", pixels)
"""


def _tried(folder: pathlib.Path, run: restore.Trained | restore.Restored, k: int | None) -> dict[str, Any]:
    """What model.json says of the trial: the largest differences of probabilities from the run's.

    Raises:
      ExportError: if they are too large, it makes other pixels of image files, or it does not run.
    """
    rng, expected = np.random.default_rng(0), restore.predictor(run, k)
    with tempfile.TemporaryDirectory() as place:
        scratch = pathlib.Path(place)
        right = {}
        for size in _SIZES:
            inputs = _made_up(run.form, size, rng)
            np.save(scratch / f"inputs-{size}.npy", inputs)
            right[size] = expected(inputs)
        if run.form.is_image:
            _draw_images(scratch / "images", run.form.shape, rng)
        done = subprocess.run(
            [sys.executable, "-c", _TRY, os.fspath((folder / "load.py").resolve())],
            cwd=scratch, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            told = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise ExportError(f"the exported network does not run in a process without robustjax: {told}")
        off = {
            name: max(float(np.max(np.abs(np.load(scratch / f"{name}-{n}.npy") - right[n]))) for n in _SIZES)
            for name in ("found", "own")
        }
        same = not run.form.is_image or _same_pixels(scratch, run.form.shape)
    coarse = run.settings.precision != "float32" or jax.default_backend() != "cpu"
    tolerance = _COARSE if coarse else _TOLERANCE
    if not off["found"] <= tolerance:
        raise ExportError(
            f"the exported network's probabilities differ by {off['found']:.2g} from the run's; {tolerance:g} is the "
            "most that is accepted."
        )
    if not same:
        raise ExportError("load.py makes other pixels of image files than robustjax does.")
    return {
        "largest_difference": off["found"], "tolerance": tolerance, "numbers_of_inputs": list(_SIZES),
        "largest_difference_with_xlas_own_cpu_kernels": off["own"],
    }  # fmt: skip


def _draw_images(folder: pathlib.Path, shape: Sequence[int], rng: np.random.Generator) -> None:
    """Image files of three kinds and sizes, one in a folder of its own."""
    height, width = shape[:2]
    (folder / "inner").mkdir(parents=True)
    for name, channels, kind in (("a.png", (3,), "uint8"), ("b.png", (4,), "uint8"), ("inner/c.png", (), "uint16")):
        pixels = rng.integers(0, np.iinfo(kind).max, (height + 2 * len(channels), width + 5, *channels)).astype(kind)
        Image.fromarray(pixels).save(folder / name)


def _same_pixels(scratch: pathlib.Path, shape: tuple[int, ...]) -> bool:
    """Whether load.py, with pixels.npy, has made of `images` what robustjax makes of them."""
    right = [image_files.read_image(file, shape)[0] for file in image_files.list_files(scratch / "images")]
    return (scratch / "pixels.npy").exists() and np.array_equal(np.load(scratch / "pixels.npy"), np.stack(right))


def _made_up(known: form.Form, count: int, rng: np.random.Generator) -> np.ndarray:
    """Inputs of many contrasts, as stored, with the data's mean and deviation, [count, …]."""
    shape = (count, *known.shape)
    if known.dtype == "int32":
        ids = rng.integers(0, known.num_tokens or 10, shape, np.int32)
        lengths = rng.integers(1, known.shape[-1] + 1, (count, *[1] * len(known.shape)))
        return np.where(np.arange(known.shape[-1]) < lengths, ids, 0).astype(np.int32)
    contrast = rng.uniform(0.2, 2, (count, *[1] * len(known.shape)))
    inputs = np.asarray(known.mean) + contrast * np.asarray(known.std) * rng.normal(size=shape)
    return (np.clip(np.round(inputs), 0, 255) if known.dtype == "uint8" else inputs).astype(known.dtype)


def _load(known: form.Form) -> str:
    """The text of load.py."""
    shapes = f"[N, {len(known.class_names)}] of {known.dtype} {_sides(known)}"
    rows, files, imports = 'np.load(place, mmap_mode="r")', "", "json, pathlib, sys"
    takes, needs, reading = ".npy files", "", ""
    if known.is_image:
        rows += ' if place.suffix == ".npy" else list_files(place) if place.is_dir() else [place]'
        files = f"""
            if isinstance(part, list):
                yield list(map(str, part)), np.stack([read_image(file, {known.shape})[0] for file in part])
                continue"""
        imports = "contextlib, io, json, os, pathlib, sys, warnings"
        takes, needs, reading = ".npy and image files, and folders of them", ", and Pillow for image files", _reading()
    return f'''"""Probabilities {shapes}. Needs jax>={jax.__version__} and flatbuffers{needs}."""
from __future__ import annotations

import {imports}
import jax, jax.export, numpy as np

here = pathlib.Path(__file__).parent
class_names = json.loads((here / "class_names.json").read_text(encoding="utf-8"))
program = jax.export.deserialize(bytearray((here / "model.jax").read_bytes()))
# As it was tried: on a CPU, XLA's other kernels get some sums over products wrong (jaxlib 0.10.2 to 0.12).
options = {backend.SAFE_CPU_OPTIONS!r} if jax.default_backend() == "cpu" else {{}}
try:
    jax.jit(lambda x: x, compiler_options=options)(0)
except Exception:  # a jaxlib without these kernels
    options = {{}}
predict = jax.jit(program.call, compiler_options=options)  # compiled once for each number of inputs


def batches(places, size=500):
    """Names and inputs of what is in the files and folders `places`, at most `size` at a time."""
    for place in map(pathlib.Path, places):
        rows = {rows}
        for start in range(0, len(rows), size):
            part = rows[start : start + size]{files}
            yield [f"{{place}}:{{n}}" for n in range(start, start + len(part))], np.asarray(part)
{reading}

if __name__ == "__main__":  # python load.py {takes}
    for names, inputs in batches(sys.argv[1:]):
        for name, row in zip(names, np.asarray(predict(inputs))):
            print(name, class_names[row.argmax()], row.max(), sep="\\t")
'''


def _reading() -> str:
    """What load.py has of robustjax: how image files are decoded and resized."""
    parts = (
        filesystem.files_below, image_files.list_files, image_files.read_image, image_files.pixels, image_files._opened,
        image_files._refuse_depth, image_files._eight_bits, array_cache.resize,
    )  # fmt: skip
    sources = "\n\n".join(inspect.getsource(part) for part in parts)
    head = "# Image files as they were decoded and resized in training."
    return f"\n\n{head}\nSUFFIXES = {image_files.SUFFIXES!r}\n\n\n{sources}"


def _sides(known: form.Form) -> str:
    return f"[N, {', '.join(map(str, known.shape))}]"


def _readme(known: form.Form, described: dict[str, Any]) -> str:
    """The text of README.txt."""
    wanted, needs, off = described["inputs"], described["needs"], described["checked"]
    own = off["largest_difference_with_xlas_own_cpu_kernels"]
    pillow = ", for image files Pillow" if known.is_image else ""
    loaded = '`runpy.run_path("load.py")["predict"](inputs)`'
    parts = [
        f"A network that gives the probabilities of {len(known.class_names)} classes (class_names.json), trained on "
        f"{known.dataset} by {described['made_from']['method']}: {described['made_from']['networks']}, epoch "
        f"{described['made_from']['epoch']}. model.json says all that is said here.",
        f"In: {known.dtype} {_sides(known)}, {wanted['meaning']}, for any N. They are not to be normalised: that is in "
        f"the program. Out: float32 [N, {len(known.class_names)}].",
    ]
    if "resized" in wanted:
        parts.append(
            f"Images of another size are to be resized to {known.shape[0]}×{known.shape[1]}: {wanted['resized']}. EXIF "
            "rotation is applied first, transparent parts are white, of 16 bits the upper 8 are taken."
        )
    if known.vocabulary is not None:
        parts.append(
            "Words, in lower case, are what stands between white space (HTML line breaks included) and punctuation; "
            f"every punctuation mark is a word. The id of a word is its line in vocabulary.txt, from 0; 0 pads behind "
            f"the last word, 1 is any other word. Of longer texts the last {known.shape[0]} words are taken."
        )
    parts += [
        f"It needs {' and '.join(needs['packages'])}{pillow}, nothing else, and runs on "
        f"{', '.join(needs['platforms'])}. JAX promises that its later versions of the next six months load it "
        f"(calling convention {needs['calling_convention_version']}).",
        "load.py is the example: `python load.py inputs.npy`"
        + (", with image files or with folders of them, which it decodes and resizes" if known.is_image else "")
        + f"; in Python, {loaded}. It sets the compile options that the program was tried with, since these do not "
        "travel with it: on a CPU, XLA's other kernels get some sums over products wrong (jaxlib 0.10.2 to 0.12; "
        f"probabilities that were tried moved by up to {own:.2g}).",
    ]
    filled = "\n\n".join(textwrap.fill(part, 100) for part in parts)
    return f"{filled}\n"


if __name__ == "__main__":
    sys.exit(main())
