"""What the app shows of a study: its model, test pictures to try, training pictures to compare with."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from wastetune.datasets.catalog import find_dataset
from wastetune.errors import UserError, first_line
from wastetune.models.bundle import BundleDescription, load_description
from wastetune.models.neighbors import NeighborIndex, open_neighbor_index
from wastetune.models.saliency import SaliencyModel, open_saliency_model
from wastetune.report.predictions import confident_mistakes, read_predictions
from wastetune.settings import cache_folder

REPORT = "/report.html"  # the address of the study's report
_HITS, _MISTAKES = 6, 2  # examples


@dataclass(frozen=True)
class Example:
    """A test picture to try, whose class is known."""

    path: Path
    name: str  # its class


class IndexBuild:
    """The neighbour index of the training pictures, built in a thread because it takes a while the first time."""

    def __init__(self, build: Callable[[Callable[[int, int], None]], NeighborIndex]) -> None:
        self.done = self.total = 0  # pictures
        self.index: NeighborIndex | None = None
        self.problem = ""  # why there is no index
        threading.Thread(target=self._run, args=(build,), name="index", daemon=True).start()

    def _run(self, build: Callable[[Callable[[int, int], None]], NeighborIndex]) -> None:
        try:
            self.index = build(self._progress)
        except Exception as error:  # a missing picture, a full disk: the app works without
            self.problem = str(error)

    def _progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total


@dataclass(frozen=True)
class AppState:
    """Everything that the app shows of a study."""

    study: str
    about: BundleDescription
    model: SaliencyModel
    examples: tuple[Example, ...]
    neighbors: IndexBuild
    report: Path  # report.html, which may be missing


@cache
def open_app_state(results: Path, data: Path, dataset: str) -> AppState:
    """What the app shows of a study's results folder; the same object for every visitor of this process.

    Its pictures are those of `dataset`, a path or a name in `data`; where that is empty, of the data set named in the
    bundle. Without pictures the app has no examples and no neighbours. UserError where the model cannot be read.
    """
    bundle = results / "bundle"
    about = load_description(bundle)
    try:
        model = open_saliency_model(bundle)
        model.explain(np.zeros((model.size, model.size, 3), np.uint8))  # compiles, for the first visitor
    except (UserError, ImportError):
        raise
    except Exception as error:  # Keras raises anything over a broken file
        raise UserError(
            f"the model in {bundle} cannot be read: {first_line(error)}; delete it and run the study again"
        ) from error

    dataset = dataset or str(about.dataset)

    def build(progress: Callable[[int, int], None]) -> NeighborIndex:
        return open_neighbor_index(results, find_dataset(dataset, data), model, cache_folder(), progress)

    return AppState(
        study=about.study or results.name,
        about=about,
        model=model,
        examples=_examples(results, about, dataset, data),
        neighbors=IndexBuild(build),
        report=results / "report.html",
    )


def _examples(results: Path, about: BundleDescription, dataset: str, data: Path) -> tuple[Example, ...]:
    """For some classes the right prediction of median probability, then the most confident mistakes."""
    matrix = about.test.confusion_matrix if about.test else ()
    predictions = read_predictions(results, about.classes, matrix)
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
    mistakes = [(each.path, each.true) for each in confident_mistakes(predictions, _MISTAKES)]
    return tuple(Example(folder / path, name) for path, name in found[:_HITS] + mistakes if (folder / path).is_file())
