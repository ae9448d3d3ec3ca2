"""What a model says of picture files, which it gets as it got them in training."""

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
from wastetune.models.loading import Model

PROBABILITY = "probability of "  # and the class: a column each

_BATCH = 64  # pictures in memory at once


@dataclass(frozen=True)
class Prediction:
    """What the model says of one picture: a probability for each class, or why it could not be read."""

    path: Path
    probabilities: NDArray[np.float32] | None  # (classes,)
    problem: str = ""


def predict_files(model: Model, paths: Iterable[Path]) -> Iterator[Prediction]:
    """What the model says of each file, in their order; one that cannot be read has a problem and stops nothing."""

    def read(path: Path) -> NDArray[np.uint8] | str:
        try:
            return resize_picture(read_picture(path), model.size)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        for batch in _batches(paths):
            found = list(pool.map(read, batch))
            pixels = [each for each in found if not isinstance(each, str)]
            said = iter(model.run(np.stack(pixels)) if pixels else ())
            for path, each in zip(batch, found, strict=True):
                yield Prediction(path, None, each) if isinstance(each, str) else Prediction(path, next(said))


def best_classes(model: Model, probabilities: NDArray[np.float32], most: int = 3) -> list[tuple[str, float]]:
    """The most probable classes with their probabilities, the first the model's answer."""
    order = np.argsort(-probabilities, kind="stable")[:most]
    return [(model.classes[label], float(probabilities[label])) for label in order]


def find_pictures(named: Sequence[str | Path]) -> list[Path]:
    """The files that are meant by files, folders and globs, each in the order of names. UserError where there is none.

    Hidden files of a folder are passed over. What is not there is left to be told of as a problem.
    """
    if paths := list(_files(named)):
        return paths
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


def render_text(model: Model, predictions: Iterable[Prediction]) -> Lines:
    """A line for each prediction, beside it: class, probability, the next two classes, path."""
    width = max(map(len, model.classes))
    for said in predictions:
        if said.probabilities is None:
            yield f"{'-':{width}}          {said.problem}", said
            continue
        (name, share), *others = best_classes(model, said.probabilities)
        rest = ", ".join(f"{other} {part:.1%}" for other, part in others)
        yield f"{name:{width}}  {share:6.1%}  {said.path}  ({rest})", said


def render_json(model: Model, predictions: Iterable[Prediction]) -> Lines:
    """A JSON object for each prediction, beside it: picture, and class, probability, top and all, or the problem."""
    for said in predictions:
        found: dict[str, Any] = {"picture": str(said.path)}
        if said.probabilities is None:
            found["problem"] = said.problem
        else:
            top = best_classes(model, said.probabilities)
            found |= {"class": top[0][0], "probability": top[0][1]}
            found["top"] = [{"class": name, "probability": share} for name, share in top]
            found["probabilities"] = dict(zip(model.classes, map(float, said.probabilities), strict=True))
        yield json.dumps(found, ensure_ascii=False), said


def render_csv(model: Model, predictions: Iterable[Prediction]) -> Lines:
    """A header, beside it nothing; then a line of CSV for each prediction, beside it: the columns of `predict`."""
    yield _csv_line(table_columns(model)), None
    for said in predictions:
        yield _csv_line(table_row(model, said)), said


def table_columns(model: Model) -> list[str]:
    """The names of the columns of a table of predictions."""
    return ["picture", "class", "probability", "problem", *(PROBABILITY + name for name in model.classes)]


def table_row(model: Model, said: Prediction) -> list[Any]:
    """A prediction's row there; None for what a picture with a problem does not have."""
    if said.probabilities is None:
        return [str(said.path), None, None, said.problem, *(None for _ in model.classes)]
    [(name, share)] = best_classes(model, said.probabilities, most=1)
    return [str(said.path), name, share, "", *(float(each) for each in said.probabilities)]


def _csv_line(cells: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _without_globs(named: Iterable[str | Path]) -> Iterator[Path]:
    for each in named:
        path = Path(each)
        if not path.exists() and (found := sorted(glob(str(each), recursive=True))):  # noqa: PTH207  Path.glob knows no absolute ones
            yield from map(Path, found)
        else:
            yield path


def _batches(paths: Iterable[Path]) -> Iterator[list[Path]]:
    rest = iter(paths)
    while batch := list(islice(rest, _BATCH)):
        yield batch
