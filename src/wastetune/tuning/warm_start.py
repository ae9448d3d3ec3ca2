"""The configurations of earlier studies that a study runs early: chosen once, when it begins, and stored with it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wastetune.errors import UserError
from wastetune.report.text import warm_start_lines
from wastetune.search.space import SearchSpace, load_space
from wastetune.search.warm_start import (
    EarlierStudy,
    choose_warm_starts,
    objection,
    read_earlier_study,
    select_nearest,
)
from wastetune.storage.database import open_storage
from wastetune.storage.records import WarmStart
from wastetune.storage.study import WARM_STARTS, find_study, get_study_attr, settle_study_attr, study_names
from wastetune.tuning.objective import choose_config
from wastetune.tuning.prepare import TrialContext, key_of
from wastetune.tuning.spec import StudySpec

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage


def check_warm_start(spec: StudySpec, url: str, *, patient: bool = False) -> None:
    """Raises UserError where a study that `warm_start` names is not in the database, or cannot help.

    A study that has begun has its configurations, whatever became of the studies that they are from.
    """
    if spec.warm_start is None or spec.warm_start == "auto":
        return
    storage = open_storage(url, patient=patient)
    if spec.name in study_names(storage) and get_study_attr(find_study(storage, spec.name), WARM_STARTS) is not None:
        return
    with key_of(spec, "space"):
        space = load_space(spec.space)
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
