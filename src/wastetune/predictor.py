"""A bundle's model, ready to say what is on pictures, which it gets as it got them in training."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wastetune.bundle import MODEL_FILE, load_description, load_model
from wastetune.data.picture import read_picture
from wastetune.data.pixels import resize_picture
from wastetune.errors import UserError

_BATCH = 64  # pictures in memory at once


@dataclass(frozen=True)
class Predictor:
    """A trained model in memory."""

    classes: tuple[str, ...]
    size: int  # pixels a side
    model: Any  # Keras: (n, size, size, 3) in 0..255 -> (n, classes)


@dataclass(frozen=True)
class Prediction:
    """What the model says of one picture: a probability for each class, or why it could not be read."""

    path: Path
    probabilities: npt.NDArray[np.float32] | None  # (classes,)
    problem: str = ""


def load_predictor(bundle: Path) -> Predictor:
    """The model in a bundle's folder. UserError where there is none that can be read."""
    description = load_description(bundle)
    try:
        model = load_model(bundle)
    except Exception as error:  # Keras raises anything over a broken file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"the model in {bundle / MODEL_FILE} cannot be read: {reason}; delete it and run the study again"
        ) from error
    return Predictor(tuple(description["classes"]), int(description["input_size"]), model)


def predict_files(predictor: Predictor, paths: Iterable[Path]) -> Iterator[Prediction]:
    """What the model says of each file, in their order; one that cannot be read has a problem and stops nothing."""

    def read(path: Path) -> npt.NDArray[np.uint8] | str:
        try:
            return resize_picture(read_picture(path), predictor.size)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        for batch in _batches(paths):
            found = list(pool.map(read, batch))
            pixels = [each for each in found if not isinstance(each, str)]
            said = iter(_probabilities(predictor, pixels))
            for path, each in zip(batch, found, strict=True):
                yield Prediction(path, None, each) if isinstance(each, str) else Prediction(path, next(said))


def _batches(paths: Iterable[Path]) -> Iterator[list[Path]]:
    rest = iter(paths)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _probabilities(predictor: Predictor, pixels: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    if not pixels:
        return np.empty((0, len(predictor.classes)), np.float32)
    return np.asarray(predictor.model.predict_on_batch(np.stack(pixels).astype(np.float32)))
