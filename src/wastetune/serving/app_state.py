"""What the app shows of a study: its model, its test pictures to try, its training pictures to compare with."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from wastetune.data.datasets import find_dataset
from wastetune.errors import UserError
from wastetune.models.bundle import load_description
from wastetune.models.neighbors import NeighborIndex, open_neighbor_index
from wastetune.models.saliency import SaliencyModel, open_saliency_model
from wastetune.report.predictions import confident_mistakes, read_predictions
from wastetune.settings import cache_folder

REPORT = "/report.html"  # where the study's page is found
_RIGHT, _WRONG = 6, 2  # examples


@dataclass(frozen=True)
class Example:
    """A test picture to try, whose class is known."""

    path: Path
    name: str  # its class


class Gathering:
    """The gallery of training pictures. The first time it takes a while, so a thread of its own gathers it."""

    def __init__(self, gather: Callable[[Callable[[int, int], None]], NeighborIndex]) -> None:
        self.done = self.total = 0
        self.gallery: NeighborIndex | None = None
        self.missing = ""  # why there is none, and will be none
        threading.Thread(target=self._run, args=(gather,), name="gallery", daemon=True).start()

    def _run(self, gather: Callable[[Callable[[int, int], None]], NeighborIndex]) -> None:
        try:
            self.gallery = gather(self._tell)
        except Exception as error:  # a picture that is gone, a full disk: the app does without
            self.missing = str(error)

    def _tell(self, done: int, total: int) -> None:
        self.done, self.total = done, total


@dataclass(frozen=True)
class AppState:
    """All that the app shows."""

    study: str
    about: Mapping[str, Any]  # what bundle.json says of the model
    onlooker: SaliencyModel
    examples: tuple[Example, ...]
    gathering: Gathering
    report: Path  # report.html, which need not be there


@cache
def open_app_state(results: Path, data: Path, dataset: str) -> AppState:
    """What there is to show in a study's results folder; the same whenever it is asked for again in this process.

    Its pictures are those of `dataset`, a path or a name in `data`; where that is empty, of the name its model says.
    UserError where there is no model, or it cannot be read. Where the pictures are away, only they are missing.
    """
    bundle = results / "bundle"
    about = load_description(bundle)
    try:
        onlooker = open_saliency_model(bundle)
        onlooker.explain(np.zeros((onlooker.size, onlooker.size, 3), np.uint8))  # compiles it for the first visitor
    except (UserError, ImportError):
        raise
    except Exception as error:  # Keras raises anything over a broken file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"the model in {bundle} cannot be read: {reason}; delete it and run the study again") from error

    dataset = dataset or str(about.get("dataset"))

    def gather(tell: Callable[[int, int], None]) -> NeighborIndex:
        return open_neighbor_index(results, find_dataset(dataset, data), onlooker, cache_folder(), tell)

    return AppState(
        study=about.get("study", results.name),
        about=about,
        onlooker=onlooker,
        examples=_examples(results, about, dataset, data),
        gathering=Gathering(gather),
        report=results / "report.html",
    )


def _examples(results: Path, about: Mapping[str, Any], dataset: str, data: Path) -> tuple[Example, ...]:
    """Test pictures of all classes that the model is right about, neither surest nor least sure, then bad mistakes."""
    test = about.get("test", {})
    predictions = read_predictions(results, about["classes"], test.get("confusion_matrix", ()))
    try:
        folder = find_dataset(dataset, data)
    except UserError:
        return ()
    if predictions is None:
        return ()
    found = []
    hits = predictions.probabilities.argmax(axis=1) == predictions.labels
    for label, name in enumerate(predictions.classes):
        rows = np.flatnonzero(hits & (predictions.labels == label))
        if len(rows):
            order = np.argsort(predictions.probabilities[rows, label], kind="stable")
            found.append((predictions.paths[rows[order[len(rows) // 2]]], name))
    mistakes = [(each.path, each.true) for each in confident_mistakes(predictions, _WRONG)]
    return tuple(Example(folder / path, name) for path, name in found[:_RIGHT] + mistakes if (folder / path).is_file())
