"""A study's file becomes all that its trials need: pictures, split, backbone, and the fingerprint of it all."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from wastetune.backbones.activation_store import Store, open_store
from wastetune.backbones.backbone import Backbone, load_backbone
from wastetune.backbones.catalog import find_architecture
from wastetune.console import Console
from wastetune.data.datasets import find_dataset
from wastetune.data.index import ImageIndex, index_folder
from wastetune.data.pixels import PictureSet, open_pixels, select_pictures
from wastetune.data.splits import Splits, split_digest, split_index
from wastetune.errors import UserError
from wastetune.search.distributions import render_param
from wastetune.search.space import SearchSpace, load_space
from wastetune.seeding import seed_for
from wastetune.settings import cache_folder, cache_limit
from wastetune.study.spec import StudySpec

# (what is being computed, pictures to do) -> inside `with`, a function that is told the pictures done
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class TuningData:
    """All that tuning may see. There is no test set in it."""

    train: PictureSet
    val: PictureSet


@dataclass(frozen=True)
class TrialContext:
    """What is the same for every trial of a study."""

    spec: StudySpec
    space: SearchSpace
    classes: tuple[str, ...]
    backbone: Backbone
    store: Store
    data: TuningData


def trial_seed(context: TrialContext, number: int) -> int:
    """The seed of everything random in a trial: the head's first weights, dropout, the order of pictures."""
    return seed_for("trial", context.spec.seed, number)


# What a study may change and stay the same, or what the rest of the fingerprint says better.
_NO_PART = {"name", "source", "question", "trials", "weights", "dataset", "space"}


@dataclass(frozen=True)
class Prepared:
    """A study that is ready to run. `test` is for `retrain` alone."""

    context: TrialContext
    test: PictureSet
    index: ImageIndex
    splits: Splits
    fingerprint: dict[str, str]


def prepare_study(spec: StudySpec, *, data: Path | None, weights: Path | None, console: Console) -> Prepared:
    """Everything a study's trials need.

    `data` is a folder of data sets, `weights` a folder of weights files; both are searched first.
    UserError for whatever in the study's file, the folders or the weights does not fit.
    """
    with _key_of(spec, "backbone"):
        architecture = find_architecture(spec.backbone)
    with _key_of(spec, "space"):
        space = load_space(spec.space)
    with _key_of(spec, "dataset"):
        folder = find_dataset(spec.dataset, data)
    cache = cache_folder()
    with console.bar("reading pictures", None) as done:
        index = index_folder(folder, cache=cache, progress=_steps(done))
    splits = split_index(index, seed=spec.seed, val_fraction=spec.val_fraction, test_fraction=spec.test_fraction)
    with console.bar("decoding pictures", len(index.pictures)) as done:
        pixels = open_pixels(index, spec.image_size or architecture.size, cache, progress=_steps(done))
    backbone = load_backbone(spec.backbone, spec.weights, size=spec.image_size, folder=weights)
    train, val, test = (select_pictures(index, pixels, rows) for rows in (splits.train, splits.val, splits.test))
    return Prepared(
        context=TrialContext(
            spec, space, index.classes, backbone, open_store(cache, cache_limit()), TuningData(train, val)
        ),
        test=test,
        index=index,
        splits=splits,
        fingerprint={
            "wastetune version": version("wastetune"),
            **{key: str(value) for key, value in spec.model_dump(exclude=_NO_PART).items()},
            # Later parameters depend on earlier ones, so their order counts.
            "space": ", ".join(key for key, _ in space.params),
            **{f"space's {key}": render_param(param) for key, param in space.params},
            "data and split": split_digest(index, splits)[:16],
            "weights": backbone.digest[:16],
        },
    )


@contextmanager
def _key_of(spec: StudySpec, key: str) -> Iterator[None]:
    """Says which key of which file a mistake is in."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{spec.source}: {key} = {getattr(spec, key)!r}: {error}") from None


def _steps(done: Callable[[int], None]) -> Callable[[int, int], None]:
    """A function that is told (done so far, total) from one that is told what was added."""
    last = 0

    def progress(so_far: int, total: int) -> None:
        nonlocal last
        done(so_far - last)
        last = so_far

    return progress
