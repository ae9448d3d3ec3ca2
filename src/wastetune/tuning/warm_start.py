"""The configurations of earlier studies that a study runs early: chosen once, when it begins, and stored with it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from wastetune.datasets.identity import are_same
from wastetune.errors import UserError
from wastetune.report.text import warm_start_lines
from wastetune.search.distributions import Fixed
from wastetune.search.sampler import Resolve, propose_this
from wastetune.search.space import SearchSpace, default_params, nearest_params, searched_backbones
from wastetune.storage.database import open_storage
from wastetune.storage.records import TrialRecord, WarmStart
from wastetune.storage.study import (
    WARM_STARTS,
    DataSource,
    find_study,
    get_study_attr,
    read_records,
    read_study_info,
    settle_study_attr,
    study_names,
)
from wastetune.training.config import BACKBONE, TrialConfig
from wastetune.tuning.objective import choose_config
from wastetune.tuning.prepare import TrialContext, key_of, read_space
from wastetune.tuning.spec import StudySpec

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

# Configurations in all. With the default they leave the sampler two of its eight random trials, in which it may still
# find what no earlier study tried.
MOST = 5


@dataclass(frozen=True)
class EarlierStudy:
    """A study that wastetune has run: what it was about, and its complete trials, the best first."""

    name: str
    backbone: str
    data: DataSource
    trials: tuple[TrialRecord, ...]


def check_warm_start(spec: StudySpec, url: str, *, patient: bool = False) -> None:
    """Raises UserError where a study that `warm_start` names is not in the database, or cannot help.

    A study that has begun has its configurations, whatever became of the studies that they are from.
    """
    if spec.warm_start is None or spec.warm_start == "auto":
        return
    storage = open_storage(url, patient=patient)
    if spec.name in study_names(storage) and get_study_attr(find_study(storage, spec.name), WARM_STARTS) is not None:
        return
    space = read_space(spec)
    with key_of(spec, "warm_start"):
        if spec.name in spec.warm_start:
            raise UserError("a study cannot help itself; leave it out")
        _find_named(storage, spec.warm_start, space)


def settle_warm_starts(study: "optuna.Study", context: TrialContext) -> tuple[WarmStart, ...]:
    """The configurations that the study runs after the default; chosen by the first worker and the same for all.

    UserError as in `check_warm_start`.
    """
    wanted, space = context.spec.warm_start, context.space
    if not wanted:
        return ()

    def choose() -> list[dict[str, object]]:
        own = read_earlier_study(study)
        assert own is not None  # written when it was joined
        if wanted == "auto":
            names = [name for name in study_names(study._storage) if name != own.name]
            others = (read_earlier_study(find_study(study._storage, name)) for name in names)
            earlier = select_nearest(own, others, space)
        else:
            earlier = _find_named(study._storage, wanted, space)
        chosen = choose_warm_starts(own, earlier, space, lambda trial: choose_config(trial, context))
        return [each.to_dict() for each in chosen]

    return tuple(map(WarmStart.from_dict, settle_study_attr(study, WARM_STARTS, choose)))


def render_warm_starts(spec: StudySpec, starts: Sequence[WarmStart]) -> list[str]:
    """Lines about them; none where the study asks for none."""
    if not spec.warm_start:
        return []
    return warm_start_lines(starts) or ["Warm start: no earlier study in this database can help."]


def _find_named(storage: "BaseStorage", names: Sequence[str], space: SearchSpace) -> list[EarlierStudy]:
    """The studies of these names, each once, in this order. UserError where one is not there or cannot help."""
    found = []
    for name in dict.fromkeys(names):
        earlier = read_earlier_study(find_study(storage, name))
        if reason := objection(earlier, space):
            raise UserError(f"study {name!r} {reason}; leave it out")
        assert earlier is not None
        found.append(earlier)
    return found


def read_earlier_study(study: "optuna.Study") -> EarlierStudy | None:
    """The study so far; None where wastetune has not run it."""
    info = read_study_info(study)
    if info is None:
        return None
    complete = [trial for trial in read_records(study) if trial.state == "complete" and trial.config]
    complete.sort(key=lambda trial: (-(trial.score or 0.0), trial.number))
    return EarlierStudy(study.study_name, info.tags["backbone"], info.data, tuple(complete))


def objection(earlier: EarlierStudy | None, space: SearchSpace) -> str:
    """Why a study cannot help one with this space, as the end of a sentence; empty where it can."""
    if earlier is None or not earlier.trials:
        return "has no complete trial of wastetune"
    here = {key for key, param in space.params if not isinstance(param, Fixed)}
    if not here & {key for trial in earlier.trials for key in trial.drawn}:
        return f"has searched none of the parameters that {space.source} searches"
    if not any(_fitting(earlier, space)):
        return f"has no configuration whose choices {space.source} offers"
    return ""


def select_nearest(own: EarlierStudy, others: Iterable[EarlierStudy | None], space: SearchSpace) -> list[EarlierStudy]:
    """The other studies that can help, the nearest first: of the same pictures and the same backbone.

    Then those of the same backbone, those of the same pictures, and the rest; of equally near ones, those with more
    trials first. A study of the same pictures under another split is left out, see `is_resplit`.
    """

    def rank(other: EarlierStudy) -> tuple[int, int, str]:
        same = (bool(_backbones(own) & _backbones(other)), _same_pictures(own.data, other.data))
        return (-2 * same[0] - same[1], -len(other.trials), other.name)

    helpful = [other for other in others if other and not objection(other, space) and not is_resplit(own, other)]
    return sorted(helpful, key=rank)


def is_resplit(own: EarlierStudy, other: EarlierStudy) -> bool:
    """Whether another study has the same pictures under another split.

    What it chose its best configurations by may then be among the test pictures here.
    """
    return _same_pictures(own.data, other.data) and own.data.digest != other.data.digest


def _same_pictures(one: DataSource, other: DataSource) -> bool:
    if not (one.content and other.content):  # of an earlier version
        return one.name == other.name
    return one.content == other.content or are_same(one.sketch, other.sketch)


def choose_warm_starts(
    own: EarlierStudy, earlier: Sequence[EarlierStudy], space: SearchSpace, resolve: Resolve[TrialConfig]
) -> tuple[WarmStart, ...]:
    """The best configurations of earlier studies, in this space: the best of each study, then the second of each.

    At most MOST, each once, and none that is the space's default; see `nearest_params`.
    """
    turns = zip_longest(
        *(_warm_starts(_of_same_backbones(each, own), is_resplit(own, each), space, resolve) for each in earlier)
    )
    found: list[WarmStart] = []
    defaults = (default_params(space, each) for each in searched_backbones(space))
    seen: list[Mapping[str, Any]] = [propose_this(each, resolve).config.model_dump() for each in defaults]
    for start in filter(None, chain.from_iterable(turns)):
        if start.config not in seen:
            seen.append(start.config)
            found.append(start)
        if len(found) == MOST:
            break
    return tuple(found)


def _backbones(study: EarlierStudy) -> set[str]:
    return set(study.backbone.split(", "))


def _of_same_backbones(earlier: EarlierStudy, own: EarlierStudy) -> EarlierStudy:
    """The earlier study with its trials of backbones that this one has, too; with all of them where it has none."""
    ours = _backbones(own)
    same = tuple(trial for trial in earlier.trials if trial.config.get(BACKBONE, earlier.backbone) in ours)
    return replace(earlier, trials=same or earlier.trials)


def _warm_starts(
    earlier: EarlierStudy, resplit: bool, space: SearchSpace, resolve: Resolve[TrialConfig]
) -> Iterator[WarmStart]:
    for number, params in _fitting(earlier, space):
        config = propose_this(params, resolve).config.model_dump()
        yield WarmStart(study=earlier.name, trial=number, resplit=resplit, params=params, config=config)


def _fitting(earlier: EarlierStudy, space: SearchSpace) -> Iterator[tuple[int, dict[str, Any]]]:
    """The trials whose choices the space offers, the best first: number, and the sampled parameters here.

    A study of several backbones runs a configuration with the backbone that it was found with.
    """
    for trial in earlier.trials:
        try:
            config = TrialConfig.model_validate(trial.config)
            # As stored, a head of the user's own has no width or dropout of wastetune's.
            values = dict(config) if config.head is None else config.model_dump()
            params = nearest_params(space, values | {BACKBONE: config.backbone or earlier.backbone})
        except ValueError:  # a choice that is not offered, or a configuration of a later version
            continue
        yield trial.number, params
