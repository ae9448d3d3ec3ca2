"""A model's predictions of labelled pictures: predictions.csv, and the most confident mistakes."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wastetune.evaluation.metrics import confusion_counts
from wastetune.files import write_whole
from wastetune.models.predict import PROBABILITY

FILE = "predictions.csv"
_COLUMNS = ("path", "true", "predicted")
_TEST_COLUMNS = ("path", "split", "true", "predicted", "predicted by default")


@dataclass(frozen=True)
class Predictions:
    """n pictures: paths as in the index, labels as positions in `classes`."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]  # (n,)
    probabilities: npt.NDArray[np.float32]  # (n, classes)
    # (n,) labels that the study's default configuration predicts for its test pictures; None for other pictures
    default_predicted: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Mistake:
    """A picture of which another class was predicted, and its probability."""

    path: str
    true: str
    predicted: str
    probability: float


def write_predictions(predictions: Predictions, folder: Path) -> None:
    """Writes predictions.csv, whole or not at all: a line per picture, a column for the probability of each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes, default = predictions.classes, predictions.default_predicted
    header = _COLUMNS if default is None else _TEST_COLUMNS
    writer.writerow([*header, *(PROBABILITY + name for name in classes)])
    for i, (path, label, row) in enumerate(
        zip(predictions.paths, predictions.labels, predictions.probabilities, strict=True)
    ):
        names = (classes[label], classes[row.argmax()])
        cells = (path, *names) if default is None else (path, "test", *names, classes[default[i]])
        writer.writerow([*cells, *(f"{value:.9g}" for value in row)])  # enough digits to read the same float32
    folder.mkdir(parents=True, exist_ok=True)
    # File names need not be valid UTF-8; their undecodable bytes are written as they are.
    write_whole(folder / FILE, lambda part: part.write_bytes(text.getvalue().encode("utf-8", "surrogateescape")))


def read_predictions(
    folder: Path, classes: Sequence[str], confusion_matrix: Sequence[Sequence[int]]
) -> Predictions | None:
    """The predictions with this confusion matrix; None where the folder has none, or those of another model."""
    try:
        with (folder / FILE).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
        place = {name: position for position, name in enumerate(classes)}
        found = Predictions(
            tuple(classes),
            tuple(row["path"] for row in rows),
            np.array([place[row["true"]] for row in rows], np.int64),
            np.array([[float(row[PROBABILITY + name]) for name in classes] for row in rows], np.float32),
            np.array([place[row["predicted by default"]] for row in rows], np.int64),
        )
        counts = confusion_counts(found.labels, found.probabilities)
    except (OSError, KeyError, ValueError, TypeError):
        return None
    return found if counts.tolist() == [list(row) for row in confusion_matrix] else None


def confident_mistakes(predictions: Predictions, most: int) -> tuple[Mistake, ...]:
    """The wrong predictions of highest probability, at most so many, in descending order."""
    predicted = predictions.probabilities.argmax(axis=1)
    sure = predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != predictions.labels)
    order = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    names = predictions.classes
    return tuple(
        Mistake(predictions.paths[i], names[predictions.labels[i]], names[predicted[i]], float(sure[i])) for i in order
    )
