"""Prepares a study: pictures, split, backbone, search space, and the fingerprint of all of them."""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune.backbones.activation_store import Store, open_store
from wastetune.backbones.backbone import Backbone, activation_shape, load_backbone
from wastetune.backbones.cuts import TOP
from wastetune.backbones.runtime import choose_runtime
from wastetune.backbones.schemes import Source, find_source
from wastetune.console import Console
from wastetune.data.corrections import correct_index
from wastetune.data.index import ImageIndex, index_folder
from wastetune.data.pixels import PictureSet, open_pixels, select_pictures
from wastetune.data.splits import Splits, split_digest, split_index
from wastetune.datasets.catalog import find_dataset
from wastetune.datasets.identity import content_digest, content_sketch, name_dataset
from wastetune.errors import UserError
from wastetune.evaluation.metrics import METRICS
from wastetune.evaluation.objectives import COSTS, Goals, render_cost
from wastetune.models.latency import check_measurable
from wastetune.search.choice import GRID, MEDIAN, NAMES, QMC, directions_of, name_of, render_choice
from wastetune.search.distributions import render_param
from wastetune.search.sampler import check_search
from wastetune.search.space import ENQUEUE, SearchSpace, bounds, load_space, with_head
from wastetune.search.toml_file import in_toml
from wastetune.seeding import seed_for
from wastetune.settings import cache_folder, cache_limit
from wastetune.storage.database import open_storage
from wastetune.storage.study import (
    FIRST_VERSION,
    LATER,
    LIMITS,
    DataSource,
    StudyInfo,
    open_study,
    read_study_info,
    set_study_attr,
    write_study_info,
)
from wastetune.storage.trials import fail_lost_trials
from wastetune.tracking.dashboard import note_study
from wastetune.training.custom_head import build_custom_head, load_head, rehearse
from wastetune.training.head import BuildHead, build_head
from wastetune.tuning.pictures import changes_since, folder_stamp, watch_pictures
from wastetune.tuning.recipes import recipes_of
from wastetune.tuning.spec import StudySpec

if TYPE_CHECKING:
    import optuna

# (description, number of pictures) -> a context manager whose value takes the number of pictures just done
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class TuningData:
    """The pictures that tuning may use. The test set is not among them."""

    train: PictureSet
    val: PictureSet


@dataclass(frozen=True)
class TrialContext:
    """What is the same for every trial of a study, or, where it has several backbones, for every trial of this one."""

    spec: StudySpec
    space: SearchSpace
    classes: tuple[str, ...]
    backbone: Backbone
    store: Store
    data: TuningData  # at the backbone's size
    others: tuple["TrialContext", ...] = ()  # of the study's other backbones, in the first one's context

    def of(self, backbone: str | None) -> "TrialContext":
        """The context of a configuration's backbone; None: the study has one."""
        if backbone in (None, self.backbone.name):
            return self
        return next(each for each in self.others if each.backbone.name == backbone)

    @property
    def build_head(self) -> BuildHead:
        """What makes the head of a model: wastetune's, or one of the user's own."""
        head = self.space.head
        return build_head if head is None else partial(build_custom_head, head.file)


def trial_seed(context: TrialContext, number: int) -> int:
    """The seed of everything random in a trial: initial weights of the head, dropout, the order of pictures."""
    return seed_for("trial", context.spec.seed, number)


_DATA = "data and split"  # of the fingerprint
_PACKAGES = ("wastetune", "keras", "tensorflow", "optuna", "mlflow", "numpy")
# Keys of the study file that do not change the question, or that other parts of the fingerprint cover.
_NOT_IN_FINGERPRINT = {
    *("name", "source", "question", "trials", "weights", "dataset", "dataset_name", "space", "final", "corrections"),
    "warm_start",
    "head",
    *("preprocessing", "layer"),
    "objectives",
    *(cost.limit for cost in COSTS.values()),
}


@dataclass(frozen=True)
class Prepared:
    """A study that is ready to run. Only `refit` may read `test`."""

    context: TrialContext
    test: PictureSet
    index: ImageIndex
    splits: Splits
    fingerprint: dict[str, str]
    check_pictures: Callable[[], None]  # raises UserError where the folder has other pictures than the index
    tests: Mapping[str, PictureSet] = field(default_factory=dict)  # of several backbones, each at its size

    def of(self, backbone: str | None) -> "Prepared":
        """The study as it is for a configuration's backbone; None: the study has one."""
        if backbone is None:
            return self
        return replace(self, context=self.context.of(backbone), test=self.tests[backbone])


def prepare_study(spec: StudySpec, *, data: Path | None, weights: Path | None, console: Console) -> Prepared:
    """The study of a specification, ready to run.

    `data` is a folder of data sets, `weights` a folder of weights files; both are searched first.
    UserError for anything in the study file, the folders or the weights that does not fit.
    """
    space = read_space(spec)
    head = None
    if spec.head is not None:
        with key_of(spec, "head"):
            head = load_head(spec.head, Path(spec.source).parent)
    with key_of(spec, "dataset"):
        folder = find_dataset(spec.dataset, data)
    backbones = _load_backbones(spec, check_backbones(spec), weights)
    cache, stamp = cache_folder(), folder_stamp(folder)
    with console.bar("reading pictures", None) as done:
        index = in_folder = index_folder(folder, cache=cache, progress=bar_steps(done), say=console.print)
    if spec.corrections:
        with key_of(spec, "corrections"):
            index = correct_index(in_folder, Path(spec.corrections).expanduser())
    if head is not None:
        with key_of(spec, "head"):
            (features,) = activation_shape(backbones[0], TOP)
            space = with_head(space, rehearse(head, features, len(index.classes)))
    splits = split_index(
        index,
        seed=spec.seed,
        val_fraction=spec.val_fraction,
        test_fraction=spec.test_fraction,
        grouped=spec.split == "grouped",
    )
    # Dropped pictures, too: another decision must not decode all pictures again.
    sides = {}
    for size in dict.fromkeys(each.size for each in backbones):
        with console.bar("decoding pictures", len(in_folder.pictures)) as done:
            pixels = open_pixels(in_folder, size, cache, progress=bar_steps(done), say=console.print)
        sides[size] = [select_pictures(index, pixels, rows) for rows in (splits.train, splits.val, splits.test)]
    store = open_store(cache, cache_limit(), console.print)
    first, *others = (
        TrialContext(spec, space, index.classes, each, store, TuningData(*sides[each.size][:2])) for each in backbones
    )
    return Prepared(
        context=replace(first, others=tuple(others)),
        test=sides[first.backbone.size][2],
        index=index,
        splits=splits,
        fingerprint={
            **{
                key: render_choice(value) if key in NAMES else _in_words(value)
                for key, value in spec.model_dump(exclude=_NOT_IN_FINGERPRINT).items()
                # A study that does not use keys that came later keeps the fingerprint it began with.
                if (key not in LATER or value != LATER[key]) and not (key == "pruner" and spec.objectives)
            },
            # Later parameters depend on earlier ones, so their order matters.
            "space": ", ".join(key for key, _ in space.params),
            **{f"space's {key}": render_param(param) for key, param in space.params},
            **{f"space's {ENQUEUE} {n}": in_toml(values) for n, values in enumerate(space.enqueued, 1)},
            # The function and all of its file: a change in it may give every trial another head.
            **({"head": f"{head.function.__name__}, {head.digest[:16]}"} if head else {}),
            _DATA: split_digest(index, splits)[:16],
            "weights": ", ".join(each.digest[:16] for each in backbones),
            **({"objectives": ", ".join(spec.objectives)} if spec.objectives else {}),
            **({"warm_start": in_toml(spec.warm_start)} if spec.warm_start else {}),
            **{key: value for key in ("preprocessing", "layer") if (value := getattr(spec, key)) is not None},
            **{key: number for each in backbones for key, number in recipes_of(space, each).items()},
        },
        check_pictures=watch_pictures(in_folder, stamp, cache, console.print),
        tests={each.name: sides[each.size][2] for each in backbones},
    )


def _in_words(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def read_space(spec: StudySpec) -> SearchSpace:
    """The study's search space. UserError where it, or another key, does not fit one of the study's backbones."""
    with key_of(spec, "backbone"):
        sources = check_backbones(spec)
        if len(spec.backbones) > 1 and spec.head is not None:
            raise UserError("a head of your own is built for the features of one backbone; name one, or leave out head")
    if len(spec.backbones) > 1 and Path(spec.weights).expanduser().is_file():
        with key_of(spec, "weights"):
            raise UserError(f"one file cannot be the weights of {len(spec.backbones)} backbones; give their folder")
    with key_of(spec, "space"):
        names = [source.name for source in sources]
        space = load_space(spec.space, own_head=spec.head is not None, backbones=names)
        check_depth(spec, space)
        return space


def check_backbones(spec: StudySpec) -> tuple[Source, ...]:
    """The backbones of a study; nothing of them is loaded. UserError where one is not there, or keys do not fit it."""
    near, keys = Path(spec.source).parent, _own_keys(spec)
    sources = tuple(find_source(name, near, weights=spec.weights, **keys) for name in spec.backbones)
    frozen = [name for name, source in zip(spec.backbones, sources, strict=True) if source.kind == "onnx"]
    if frozen and (len(sources) > 1 or spec.objectives):
        raise UserError(
            f"what models of {frozen[0]}, an ONNX file, cost is not measured: make it the study's only backbone, "
            "without objectives"
        )
    names = [source.name for source in sources]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two backbones are called {twice}; give one of the files another name")
    return sources


def _own_keys(spec: StudySpec) -> dict[str, Any]:
    return {"preprocessing": spec.preprocessing, "layer": spec.layer}


def check_depth(spec: StudySpec, space: SearchSpace) -> None:
    """UserError where a space would train a part of a backbone that cannot be trained."""
    for name in spec.backbones:
        if name.endswith(".onnx") and bounds(space, "frozen_depth")[0] < 1:
            raise UserError(
                f'{name} stays frozen, because an ONNX file cannot be trained: choose space = "head", or fix '
                "frozen_depth = 1.0"
            )


def _load_backbones(spec: StudySpec, sources: Iterable[Source], weights: Path | None) -> list[Backbone]:
    loaded = []
    near, keys = Path(spec.source).parent, _own_keys(spec)
    for name, source in zip(spec.backbones, sources, strict=True):
        with nullcontext() if source.kind == "catalog" else key_of(spec, "backbone"):
            loaded.append(load_backbone(name, spec.weights, size=spec.image_size, folder=weights, near=near, **keys))
    return loaded


def check_choices(spec: StudySpec, *, trials: int | None) -> list[str]:
    """Sentences on the study's sampler and pruner, where they are not the default.

    UserError, before anything is computed, where a package is missing or they cannot search this space in so many
    trials, or in any number of them if that is None.
    """
    space = read_space(spec)
    if trials is not None and trials < len(spec.backbones):
        with key_of(spec, "trials"):
            raise UserError(
                f"each of the study's {len(spec.backbones)} backbones is tried at least once; ask for "
                f"--trials {len(spec.backbones)} or more, or name fewer backbones"
            )
    if spec.head is not None and name_of(spec.sampler) in (GRID, QMC):
        with key_of(spec, "sampler"):
            raise UserError("its points are laid out before a head of your own has told its parameters; choose another")
    goals = goals_of(spec)
    try:
        check_measurable(goals.costs)
        pruner = MEDIAN if goals.costs else spec.pruner  # none, which the objectives imply
        lines = check_search(spec.sampler, pruner, space, trials=trials, goals=goals)
    except UserError as error:
        raise UserError(f"{spec.source}: {error}") from None
    return [*render_goals(spec.metric, goals), *lines]


def goals_of(spec: StudySpec) -> Goals:
    """The costs that a study's file names as objectives, and their limits."""
    return Goals(tuple(spec.objectives or ())[1:], spec.limits)


def render_goals(metric: str, goals: Goals) -> list[str]:
    """A line about the objectives, where there are several."""
    if not goals.costs:
        return []
    named = [
        COSTS[key].title + (f" (at most {render_cost(key, goals.limits[key])})" if key in goals.limits else "")
        for key in goals.costs
    ]
    return [f"objectives: {METRICS[metric][0]}, {', '.join(named)}; nothing is pruned by its score"]


def fingerprint_digest(prepared: Prepared) -> str:
    """The study's fingerprint in 16 characters: the same as 0.1.0 wrote into reports and bundles of the study."""
    content = json.dumps({**FIRST_VERSION, **prepared.fingerprint})
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def join_study(
    prepared: Prepared, url: str, console: Console, *, patient: bool = False, split_table: Path | None = None
) -> "optuna.Study":
    """The study in its database, created if it does not exist; trials whose process is gone are failed.

    `patient` retries for five minutes while the database is unavailable. With the study's own split.csv, pictures that
    have changed since it began are told by name.
    """
    spec = prepared.context.spec

    def explain(key: str, then: str) -> str:
        return changes_since(split_table, then, prepared.index) if split_table and key == _DATA else ""

    goals = goals_of(spec)
    study = open_study(
        open_storage(url, patient=patient), spec.name, prepared.fingerprint, explain, directions_of(goals)
    )
    info, data = read_study_info(study), _data_source(prepared)
    if info is None:
        search = {key: value for key, value in prepared.fingerprint.items() if key in NAMES}
        tags = {"backbone": ", ".join(spec.backbones), "dataset": data.name, **search, **package_versions()}
        source = str(Path(spec.source).resolve())
        several = {"objectives": spec.objectives} if spec.objectives else {}
        info = StudyInfo(question=spec.question, metric=spec.metric, data=data, tags=tags, source=source, **several)
        if goals.costs:
            set_study_attr(study, LIMITS, goals.limits)
        write_study_info(study, info)
        note_study(study)
    elif (known := _update_source(info.data, data, spec.dataset_name)) != info.data:
        tags = info.tags | {"dataset": known.name}
        write_study_info(study, info.model_copy(update={"data": known, "tags": tags}))
    for number in fail_lost_trials(study):
        console.print(f"trial {number} was in the hands of a process that is gone: interrupted")
    return study


def _data_source(prepared: Prepared) -> DataSource:
    splits, index = prepared.splits, prepared.index
    pixels = [each.pixels_sha256 for each in index.pictures]
    return DataSource(
        name=name_dataset(index.folder, prepared.context.spec.dataset_name),
        folder=str(index.folder.resolve()),
        digest=prepared.fingerprint[_DATA],
        classes=index.classes,
        counts={"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)},
        content=content_digest(pixels),
        sketch=content_sketch(pixels),
    )


def _update_source(known: DataSource, now: DataSource, given: str | None) -> DataSource:
    """What a study has stored of its data, with what an earlier version did not store, and with the name given now."""
    return replace(known, name=given or known.name, content=now.content, sketch=now.sketch)


def package_versions() -> dict[str, str]:
    """The versions that a result may depend on; OpenVINO's where it runs the trunks."""
    packages = (*_PACKAGES, "openvino") if choose_runtime() == "openvino" else _PACKAGES
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


@contextmanager
def key_of(spec: StudySpec, key: str) -> Iterator[None]:
    """Adds the file and the key to the message of a UserError."""
    try:
        yield
    except UserError as error:
        value = getattr(spec, key)
        shown = in_toml(value) if isinstance(value, tuple) else repr(value)
        raise UserError(f"{spec.source}: {key} = {shown}: {error}") from None


def bar_steps(done: Callable[[int], None]) -> Callable[[int, int], None]:
    """A function of (done so far, total) from a progress bar's function of what was just done."""
    last = 0

    def progress(so_far: int, total: int) -> None:
        nonlocal last
        done(so_far - last)
        last = so_far

    return progress
