"""Downloads and prepares a TFDS data set as array_record: `python -m robustjax.data.tfds_prepare NAME [DATA_DIR]`.

TFDS reads array_record without TensorFlow, but prepares most image sets with it: to encode arrays as PNG and to open
files. Where TensorFlow is not installed, this puts Pillow and the standard library in place of these few calls, in
this process alone, which is why `load` runs it as a child.
"""

import glob
import importlib.util
import io
import os
import shutil
import sys
import types
from typing import Any

import numpy as np


def _stand_in() -> types.ModuleType:
    """A module with the functions of `tensorflow` that TFDS calls while it prepares image sets."""
    gfile = types.SimpleNamespace(
        GFile=open,
        Open=open,
        exists=os.path.exists,
        isdir=os.path.isdir,
        listdir=os.listdir,
        makedirs=lambda path: os.makedirs(path, exist_ok=True),
        remove=os.remove,
        rmtree=shutil.rmtree,
        rename=lambda source, target, overwrite=False: (os.replace if overwrite else os.rename)(source, target),
        copy=lambda source, target, overwrite=False: shutil.copyfile(source, target),
        glob=glob.glob,
    )
    errors = ("UnimplementedError", "ResourceExhaustedError", "NotFoundError", "PermissionDeniedError")
    module: Any = types.ModuleType("tensorflow_stand_in")
    module.io = types.SimpleNamespace(gfile=gfile)
    module.compat = types.SimpleNamespace(as_text=lambda text: text.decode() if isinstance(text, bytes) else str(text))
    module.errors = types.SimpleNamespace(**{name: type(name, (OSError,), {}) for name in errors})
    return module


def _encode_with_pillow() -> None:
    from PIL import Image
    from tensorflow_datasets.core.features import image_feature

    def encode(self: Any, array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, self.encoding_format)
        return buffer.getvalue()

    image_feature._ImageEncoder._encode_image = encode


def prepare(name: str, data_dir: str | None = None) -> str:
    """Prepares the data set `name` under `data_dir` (TFDS's default if None) and returns the folder of its files.

    Changes the process it runs in where TensorFlow is missing. Needs network, unless TFDS has the downloads already.
    """
    if importlib.util.find_spec("tensorflow") is None:
        # Behind TFDS's lazy import, not in sys.modules: there it would pass for a whole TensorFlow.
        from tensorflow_datasets.core.utils import lazy_imports_utils

        vars(lazy_imports_utils.tensorflow)["_module"] = _stand_in()
        _encode_with_pillow()
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False), file_format="array_record"
    )
    return os.fspath(builder.data_path)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    print(prepare(*sys.argv[1:]))
