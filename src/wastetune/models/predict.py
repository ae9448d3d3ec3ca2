"""Predictions for picture files, resized as in training, and their formats on the command line."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.data.image import read_picture, resize_picture
from wastetune.errors import UserError
from wastetune.evaluation.selective import UNSURE
from wastetune.models.answers import ALWAYS, Rule, decide
from wastetune.models.loading import Model

PROBABILITY = "probability of "  # followed by the class: the name of its column

_NAMED = 5  # of the paths that do not exist
_BATCH = 64  # pictures in memory at once


@dataclass(frozen=True)
class Prediction:
    """The probabilities of the classes for one picture, or why it could not be read."""

    path: Path
    probabilities: NDArray[np.float32] | None  # (classes,)
    problem: str = ""
    likeness: float | None = None  # to the training pictures; None where the model does not know


def predict_files(model: Model, paths: Iterable[Path]) -> Iterator[Prediction]:
    """A prediction for each file, in the same order. For a file that cannot be read, it has the problem."""

    def read(path: Path) -> NDArray[np.uint8] | str:
        try:
            return resize_picture(read_picture(path), model.size)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        for batch in _batches(paths):
            pictures = list(pool.map(read, batch))
            pixels = [each for each in pictures if not isinstance(each, str)]
            predicted = iter(model.predict(np.stack(pixels)) if pixels else ())
            for path, each in zip(batch, pictures, strict=True):
                if isinstance(each, str):
                    yield Prediction(path, None, each)
                else:
                    probabilities, likeness = next(predicted)
                    yield Prediction(path, probabilities, likeness=likeness)


def find_pictures(named: Sequence[str | Path]) -> list[Path]:
    """The files of paths, folders and globs, sorted by name within each. Raises UserError if there are none.

    Hidden files in folders are left out. A path that does not exist, among others that do, is included: its prediction
    has the problem.
    """
    paths = list(_files(named))
    if any(path.exists() for path in paths):
        return paths
    if paths:
        missing = ", ".join(map(str, paths[:_NAMED])) + (" ..." if len(paths) > _NAMED else "")
        raise UserError(f"there is no file or folder {missing}; check the path")
    where = ", ".join(map(str, named)) or "an empty list"
    raise UserError(f"there is no picture in {where}; name files, or a folder that holds some")


def _files(named: Iterable[str | Path]) -> Iterator[Path]:
    for path in _without_globs(named):
        if not path.is_dir():
            yield path
            continue
        below = (each.relative_to(path) for each in sorted(path.rglob("*")) if each.is_file())
        yield from (path / each for each in below if not any(part.startswith(".") for part in each.parts))


Lines = Iterator[tuple[str, Prediction | None]]


def render_text(model: Model, predictions: Iterable[Prediction], rule: Rule = ALWAYS) -> Lines:
    """A line of text and its prediction: class, probability, path, the next two classes; of an unsure one, all three.

    Where the rule asks for prediction sets, the line ends with the set.
    """
    width = max(len(name) for name in (*model.classes, UNSURE if rule.confidence else ""))
    for prediction in predictions:
        if prediction.probabilities is None:
            yield f"{'-':{width}}          {prediction.problem}", prediction
            continue
        answer = decide(model.classes, prediction.probabilities, rule, prediction.likeness)
        rest = ", ".join(f"{name} {share:.1%}" for name, share in answer.top[not answer.unsure :])
        line = f"{answer.name:{width}}  {answer.probability:6.1%}  {prediction.path}  ({rest})"
        line += "" if answer.among is None else f"  in {{{', '.join(answer.among)}}}"
        yield f"{line}  unlike the training pictures" if answer.unlike else line, prediction


def render_json(model: Model, predictions: Iterable[Prediction], rule: Rule = ALWAYS) -> Lines:
    """A JSON object and its prediction: picture, class, probability, the top 3, all probabilities; or the problem.

    Where the rule asks for prediction sets, `set` has the classes. Where the model knows the likeness to its training
    pictures, `likeness` is that, and `unlike` tells whether it is too low.
    """
    for prediction in predictions:
        fields: dict[str, Any] = {"picture": str(prediction.path)}
        if prediction.probabilities is None:
            fields["problem"] = prediction.problem
        else:
            answer = decide(model.classes, prediction.probabilities, rule, prediction.likeness)
            fields |= {"class": answer.name, "probability": answer.probability}
            fields["top"] = [{"class": name, "probability": share} for name, share in answer.top]
            fields["probabilities"] = dict(zip(model.classes, map(float, prediction.probabilities), strict=True))
            if answer.among is not None:
                fields["set"] = list(answer.among)
            if prediction.likeness is not None:
                fields |= {"likeness": prediction.likeness, "unlike": answer.unlike}
        yield json.dumps(fields, ensure_ascii=False), prediction


def render_csv(model: Model, predictions: Iterable[Prediction], rule: Rule = ALWAYS) -> Lines:
    """A header and None, then a line of CSV and its prediction, for each prediction."""
    yield _csv_line(table_columns(model, rule)), None
    for prediction in predictions:
        yield _csv_line(table_row(model, prediction, rule)), prediction


def table_columns(model: Model, rule: Rule = ALWAYS) -> list[str]:
    """The column names of a table of predictions."""
    more = ["set"] * bool(rule.sets) + ["unlike"] * (rule.unlike_below is not None)
    return ["picture", "class", "probability", "problem", *more, *(PROBABILITY + name for name in model.classes)]


def table_row(model: Model, prediction: Prediction, rule: Rule = ALWAYS) -> list[Any]:
    """The row of a prediction in that table; None for the missing values of a picture with a problem.

    The classes of a prediction set are separated by `; `; `unlike` is "yes" or empty.
    """
    if prediction.probabilities is None:
        empty = len(table_columns(model, rule)) - 4
        return [str(prediction.path), None, None, prediction.problem, *(None for _ in range(empty))]
    answer = decide(model.classes, prediction.probabilities, rule, prediction.likeness)
    more = [] if answer.among is None else ["; ".join(answer.among)]
    more += [] if rule.unlike_below is None else ["yes" if answer.unlike else ""]
    return [
        str(prediction.path),
        answer.name,
        answer.probability,
        "",
        *more,
        *(float(each) for each in prediction.probabilities),
    ]


def _csv_line(cells: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _without_globs(named: Iterable[str | Path]) -> Iterator[Path]:
    for each in named:
        path = Path(each)
        if not path.exists() and (found := sorted(glob(str(each), recursive=True))):  # noqa: PTH207  Path.glob accepts relative patterns only
            yield from map(Path, found)
        else:
            yield path


def _batches(paths: Iterable[Path]) -> Iterator[list[Path]]:
    rest = iter(paths)
    while batch := list(islice(rest, _BATCH)):
        yield batch
