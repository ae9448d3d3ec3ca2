"""Audits a data set: what a person should look at, and the decisions on it as corrections."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wastetune.backbones.activation_store import open_store
from wastetune.backbones.backbone import Backbone, load_backbone
from wastetune.backbones.catalog import find_architecture
from wastetune.console import Console
from wastetune.data.corrections import Correction, correct_index, read_corrections, render_corrected
from wastetune.data.index import ImageIndex, Picture, index_folder, near_duplicate_groups
from wastetune.data.pixels import Pixels, open_pixels, select_pictures
from wastetune.data.quality import find_blank, find_blurred, find_dark, measure_quality
from wastetune.data.splits import draw_folds
from wastetune.errors import UserError
from wastetune.evaluation.label_errors import confident_classes, self_confidence
from wastetune.search.space import default_config, load_space
from wastetune.seeding import seed_for
from wastetune.settings import cache_folder, cache_limit
from wastetune.training.fit import TrainingFailed
from wastetune.tuning.objective import cross_predict
from wastetune.tuning.prepare import TrialContext, TuningData
from wastetune.tuning.spec import StudySpec

BACKBONE = "mobilenet_v3_small_075"
LISTED = 0.08  # of the pictures, as suspected labels: of random errors in 5 % of all labels, most are among them
_FOLDS, _REPEATS = 5, 3
Probabilities = NDArray[np.float32]
Group = tuple[Picture, ...]


@dataclass(frozen=True)
class Suspect:
    """A picture whose label the predictions of a model without it contradict."""

    picture: Picture
    own: float  # the probability of its label
    likely: int  # the most probable class
    probability: float  # of that class


@dataclass(frozen=True)
class Audit:
    """What an audit found in an index; the most suspicious first in every list but the groups."""

    index: ImageIndex  # with the corrections made so far
    suspects: tuple[Suspect, ...]
    wrong: int  # labels that are probably wrong, an estimate; the list of suspects goes on after them
    contradictions: tuple[Group, ...]  # pictures that look alike, in more than one class
    near_duplicates: tuple[Group, ...]  # likewise, in one class
    blurred: tuple[Picture, ...]
    dark: tuple[Picture, ...]
    blank: tuple[Picture, ...]


def audit(
    folder: Path,
    *,
    backbone: str = BACKBONE,
    weights: str = "imagenet",
    weights_folder: Path | None = None,
    image_size: int | None = None,
    corrections: Path | None = None,
    seed: int = 0,
    console: Console,
) -> Audit:
    """The audit of an image folder, with the decisions in a file of corrections carried out first.

    Pictures that have a decision are not listed again.
    `weights` and `image_size` are as in a study's file. UserError as for a study, and where no head can be trained.
    """
    size, cache = image_size or find_architecture(backbone).size, cache_folder()
    index = in_folder = index_folder(folder, cache=cache)
    settled: set[str] = set()
    if corrections is not None:
        settled = {line.path for line in read_corrections(corrections, index.classes) if line.decision}
        index = correct_index(in_folder, corrections)
    pixels = open_pixels(in_folder, size, cache)  # of dropped pictures, too, as a study does
    trunk = load_backbone(backbone, weights, size=image_size, folder=weights_folder)
    probabilities = predict_out_of_fold(index, pixels, trunk, seed=seed, console=console)
    suspects, wrong = find_suspects(index, probabilities, settled)
    groups = [group for group in near_duplicate_groups(index) if not {picture.path for picture in group} <= settled]
    several = [len({picture.label for picture in group}) > 1 for group in groups]
    everything = select_pictures(index, pixels, range(len(index.pictures)))
    quality = measure_quality(everything.read(range(row, row + 1))[0] for row in range(len(everything)))

    def pictures(rows: NDArray[np.int64]) -> tuple[Picture, ...]:
        return tuple(index.pictures[row] for row in rows if index.pictures[row].path not in settled)

    return Audit(
        index=index,
        suspects=suspects,
        wrong=wrong,
        contradictions=tuple(group for group, found in zip(groups, several, strict=True) if found),
        near_duplicates=tuple(group for group, found in zip(groups, several, strict=True) if not found),
        blurred=pictures(find_blurred(quality)),
        dark=pictures(find_dark(quality)),
        blank=pictures(find_blank(quality)),
    )


def predict_out_of_fold(
    index: ImageIndex, pixels: Pixels, trunk: Backbone, *, seed: int, console: Console
) -> Probabilities:
    """Class probabilities of all pictures, (n, classes): the mean of three default heads that were trained without it.

    Pictures that look alike are in one fold, so that a picture's twin does not vouch for its label. Three heads with
    other folds find more wrong labels than one; augmented views and more folds hardly do (`docs/log.md`).
    """
    space = load_space("head")
    spec = StudySpec(name="audit", source="", dataset=str(index.folder), backbone=trunk.name, views=1, seed=seed)
    everything, nothing = (select_pictures(index, pixels, range(count)) for count in (len(index.pictures), 0))
    store = open_store(cache_folder(), cache_limit())
    context = TrialContext(spec, space, index.classes, trunk, store, TuningData(everything, nothing))
    config = default_config(space)
    predicted = []
    try:
        for repeat in range(_REPEATS):
            folds = draw_folds(index, range(len(everything)), _FOLDS, seed=seed_for("audit", seed, repeat))
            predicted.append(
                cross_predict(context, config, folds, number=repeat, epochs=config.epochs, bar=console.bar)
            )
    except TrainingFailed as error:
        raise UserError(f"no head could be trained on {index.folder}: {error}; try another backbone") from error
    return np.asarray(np.mean(predicted, axis=0), np.float32)


def find_suspects(
    index: ImageIndex, probabilities: Probabilities, settled: Set[str] = frozenset()
) -> tuple[tuple[Suspect, ...], int]:
    """The pictures whose label is most likely wrong, and how many of all labels probably are.

    probabilities: (n, classes), out of fold; settled: paths that are not to be listed. At most 8 % of the pictures, of
    those for which another class is more probable than the label.
    """
    labels = np.array([picture.label for picture in index.pictures])
    own, likely = self_confidence(labels, probabilities), probabilities.argmax(axis=1)
    unsettled = np.array([picture.path not in settled for picture in index.pictures])
    wrong = int(((confident_classes(labels, probabilities) != labels) & unsettled).sum())
    order = [row for row in np.argsort(own, kind="stable") if unsettled[row] and likely[row] != labels[row]]
    return tuple(
        Suspect(index.pictures[row], float(own[row]), int(likely[row]), float(probabilities[row, likely[row]]))
        for row in order[: round(LISTED * len(labels))]
    ), wrong


def propose_corrections(found: Audit) -> tuple[Correction, ...]:
    """A line for each picture that was found, without a decision: why, and the likely class of a suspected label."""
    why: dict[str, list[str]] = {}
    for path, reason in _reasons(found):
        why.setdefault(path, []).append(reason)
    likely = {one.picture.path: found.index.classes[one.likely] for one in found.suspects}
    return tuple(Correction(path, value=likely.get(path, ""), why="; ".join(reasons)) for path, reasons in why.items())


def render_audit(found: Audit, most: int = 5) -> Iterator[str]:
    """Lines of what was found, with the first few of each kind."""
    index = found.index
    yield f"{index.folder}: {len(index.pictures):,} pictures in {len(index.classes)} classes"
    if index.corrected:
        yield f"corrected by hand: {render_corrected(index.corrected)}"
    suspects = [
        f"{one.picture.path}: rather {index.classes[one.likely]} ({one.probability:.0%})" for one in found.suspects
    ]
    kinds = {
        "left out": [f"{problem.path}: {problem.what}" for problem in index.problems],
        "one picture in two classes": [_paths(group) for group in found.contradictions],
        f"labels to check (an estimate: {found.wrong} are wrong)": suspects,
        "pictures that look alike": [_paths(group) for group in found.near_duplicates],
        **{name: [picture.path for picture in getattr(found, name)] for name in ("blurred", "dark", "blank")},
    }
    for kind, lines in kinds.items():
        yield f"{kind}: {len(lines) or 'none'}"
        yield from (f"  {line}" for line in lines[:most])
        if len(lines) > most:
            yield f"  and {len(lines) - most} more"


def _paths(group: Group) -> str:
    return " = ".join(picture.path for picture in group)


def _reasons(found: Audit) -> Iterator[tuple[str, str]]:
    """Path and reason, the most serious first."""
    classes = found.index.classes
    yield from _groups(found.contradictions, "looks like {}, in another class")
    for one in found.suspects:
        label, likely = classes[one.picture.label], classes[one.likely]
        yield one.picture.path, f"looks like {likely} ({one.probability:.0%}), not {label} ({one.own:.0%})"
    yield from _groups(found.near_duplicates, "looks like {}")
    for name in ("blurred", "dark", "blank"):
        yield from ((picture.path, name) for picture in getattr(found, name))


def _groups(groups: Sequence[Group], sentence: str) -> Iterator[tuple[str, str]]:
    for group in groups:
        for picture in group:
            others = " and ".join(other.path for other in group if other is not picture)
            yield picture.path, sentence.format(others)
