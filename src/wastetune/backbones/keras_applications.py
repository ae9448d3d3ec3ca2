"""Weights and preprocessing of the Keras Applications models."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from wastetune.backbones.catalog import Preprocessing, weights_file_name
from wastetune.errors import UserError


def find_weights(name: str, wanted: str, folder: Path | None) -> Path | Literal["imagenet"] | None:
    """The source of the weights: a file, "imagenet" for Keras's own download, or None for random ones.

    `wanted` is "imagenet", "none", a file or a folder; `folder` is searched before Keras downloads.
    Raises UserError for a path that does not exist.
    """
    if wanted == "none":
        return None
    if wanted != "imagenet":
        path = Path(wanted).expanduser()
        if path.is_dir():
            path = path / weights_file_name(name)
        if not path.is_file():
            wanted_name = weights_file_name(name)
            raise UserError(f"there is no weights file {path}; give a file, or a folder that holds {wanted_name}")
        return path
    if folder is not None and (folder / weights_file_name(name)).is_file():
        return folder / weights_file_name(name)
    return "imagenet"


@contextmanager
def named_for_keras(weights: Path) -> Iterator[Path]:
    """A path of the same file, whose name tells Keras rightly what kind it is.

    Keras reads `.weights.h5` as its own format and any other `.h5` as that of Keras 2, in which most weights are
    published. So a published file that was renamed could not be read.
    """
    import h5py

    try:
        with h5py.File(weights) as file:
            suffix = ".h5" if "layer_names" in file.attrs or "model_weights" in file else ".weights.h5"
    except OSError:  # Keras tells what is wrong
        suffix = "".join(weights.suffixes[-2:])
    if weights.name.endswith(".weights.h5") == (suffix == ".weights.h5"):
        yield weights
        return
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder) / f"named{suffix}"
        try:
            named.symlink_to(weights.absolute())
        except OSError:  # where a user may not make links
            shutil.copyfile(weights, named)
        yield named


def build_preprocessing(kind: Preprocessing, size: int) -> Any:
    """A Keras model from pixels in 0..255 to the range and channel order that the backbone was trained on."""
    import keras

    pixels = keras.Input((size, size, 3))
    if kind == "signed":  # [-1, 1]
        return keras.Model(pixels, keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels), name="preprocess")
    if kind == "torch":  # ImageNet's mean colour and its deviation, of pixels in 0..1
        mean = [255 * each for each in (0.485, 0.456, 0.406)]
        variance = [(255 * each) ** 2 for each in (0.229, 0.224, 0.225)]
        scaled = keras.layers.Normalization(mean=mean, variance=variance)(pixels)
        return keras.Model(pixels, scaled, name="preprocess")
    if kind == "caffe":  # BGR minus ImageNet's mean colour
        mean, one = [103.939, 116.779, 123.68], [1.0, 1.0, 1.0]
        bgr = keras.ops.flip(pixels, axis=-1)
        return keras.Model(pixels, keras.layers.Normalization(mean=mean, variance=one)(bgr), name="preprocess")
    return keras.Model(pixels, keras.layers.Identity()(pixels), name="preprocess")


def weights_digest(body: Any) -> str:
    """The SHA-256 of all weights, with their shapes."""
    digest = hashlib.sha256()
    for array in body.get_weights():
        digest.update(str(array.shape).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
