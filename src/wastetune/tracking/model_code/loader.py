"""A registered model as MLflow runs it: pictures of any size in, the probabilities of the classes out.

This file, `data/image.py` and `errors.py` are copied into each registered model as a package of another name. So a
model resizes pictures as its training did, and needs Keras (or ONNX Runtime) and Pillow, but not wastetune.
"""

import base64
import binascii
import json
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from PIL import Image

from wastetune.data.image import decode_picture, load_pixels, read_picture, resize_picture
from wastetune.errors import UserError

if TYPE_CHECKING:
    import pandas

MODEL, ONNX, CLASSES = "model.keras", "model.onnx", "classes.json"  # files in the folder that MLflow hands over
Run = Callable[[NDArray[np.float32]], Any]  # pixels (n, size, size, 3) in 0..255 -> probabilities (n, classes)
_BATCH = 64  # pictures
_KINDS = "arrays (height, width, 3) of 0 to 255, paths of files, bytes of files, or texts in base64"


def _load_pyfunc(path: str) -> "PictureModel":
    """The model in a folder; MLflow calls this."""
    folder = Path(path)
    classes = json.loads((folder / CLASSES).read_text(encoding="utf-8"))
    if (folder / ONNX).exists():
        return PictureModel(*_open_onnx(folder / ONNX), classes)
    import keras

    with zipfile.ZipFile(folder / MODEL) as archive:
        has_hub = b'"keras_hub' in archive.read("config.json")
    if has_hub:
        import keras_hub  # noqa: F401  (registers its layers, by which Keras finds them)

    model = keras.saving.load_model(folder / MODEL, compile=False)
    return PictureModel(model.predict_on_batch, int(model.input_shape[1]), classes)


def _open_onnx(file: Path) -> tuple[Run, int]:
    """The model of a study whose backbone is an ONNX file, and the pixels a side that it takes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]

    def run(pixels: NDArray[np.float32]) -> Any:
        return session.run(["probabilities"], {given.name: np.rint(pixels).astype(np.uint8)})[0]

    return run, given.shape[1]


class PictureModel:
    """A model from pixels to probabilities behind what MLflow's models are asked."""

    def __init__(self, run: Run, size: int, classes: list[str]) -> None:
        self._run, self._classes, self._size = run, classes, size

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> "pandas.DataFrame":
        """The probabilities of pictures: a row for each, a column for each class.

        model_input: a picture or several, in a list, an array (n, height, width, 3) or a table of one column; each one
        an array, a path, the bytes of a file, or those in base64. They are resized as in training. MlflowException, in
        one sentence, for what is no picture.
        """
        import pandas

        pictures = _separate(model_input)
        rows = []
        for start in range(0, len(pictures), _BATCH):
            batch = [self._pixels(each, start + n) for n, each in enumerate(pictures[start : start + _BATCH])]
            rows.append(np.asarray(self._run(np.stack(batch))))
        return pandas.DataFrame(np.concatenate(rows).astype(np.float64), columns=self._classes)

    def _pixels(self, picture: Any, position: int) -> NDArray[np.float32]:
        try:
            return _to_pixels(picture, self._size)
        except (UserError, ValueError, TypeError) as error:
            reason = str(error).rstrip(".")
            raise MlflowException.invalid_parameter_value(f"picture {position} cannot be used: {reason}") from None


def _separate(given: Any) -> list[Any]:
    """The single pictures of what was given."""
    if isinstance(given, dict) and len(given) == 1:
        return _separate(next(iter(given.values())))
    if hasattr(given, "columns") and len(given.columns) == 1:  # a DataFrame
        given = given[given.columns[0]]
    if isinstance(given, str | bytes | bytearray | os.PathLike | Image.Image):
        return [given]
    if isinstance(given, np.ndarray) and given.ndim == 3:
        return [given]
    pictures = list(given) if isinstance(given, Iterable) and not hasattr(given, "columns") else []
    if not pictures:
        raise MlflowException.invalid_parameter_value(f"there is no picture in the input; it takes {_KINDS}")
    return pictures


def _to_pixels(picture: Any, size: int) -> NDArray[np.float32]:
    """One picture as float32 (size, size, 3) in 0..255. ValueError, TypeError or UserError with the reason."""
    if isinstance(picture, str):
        picture = _read_text(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        picture = decode_picture(bytes(picture))
    elif isinstance(picture, os.PathLike):
        picture = read_picture(Path(picture))
    if isinstance(picture, Image.Image):
        return resize_picture(load_pixels(picture), size).astype(np.float32)
    return _resize_array(np.asarray(picture), size)


def _read_text(text: str) -> bytes | Path:
    """The file of a path, or the bytes in base64. A server reads no files for its clients."""
    is_served = os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "").lower() == "true"
    if not is_served and os.path.exists(text):  # noqa: PTH110  Path.exists raises for a text that is too long for a path
        return Path(text)
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        shown = text if len(text) < 200 else f"{text[:60]}..."
        raise ValueError(
            f"{shown!r} is {'no base64' if is_served else 'neither a file that is there nor base64'}"
        ) from None


def _resize_array(pixels: NDArray[Any], size: int) -> NDArray[np.float32]:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype.kind not in "uif" or not pixels.size:
        raise ValueError(f"an array of {pixels.dtype} {pixels.shape} is none of {_KINDS}")
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 255):
        raise ValueError(f"its values go from {low:g} to {high:g}, not from 0 to 255")
    if pixels.dtype.kind == "f" and 0 < high <= 1:
        raise ValueError(f"its values go from {low:g} to {high:g}, as if divided by 255; give 0 to 255")
    if pixels.shape[:2] == (size, size):
        return pixels.astype(np.float32)
    return resize_picture(Image.fromarray(np.rint(pixels).astype(np.uint8)), size).astype(np.float32)
