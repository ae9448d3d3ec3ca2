"""A study in SQL: create it, join it, read its trials and attributes."""

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from wastetune.errors import UserError
from wastetune.evaluation.objectives import Goals
from wastetune.record import Record
from wastetune.storage.budget import interrupted_trials, is_default, is_void, only_finished
from wastetune.storage.database import engine_of
from wastetune.storage.locks import LONG_TIMEOUT, exclusive
from wastetune.storage.records import STATES, Opening, TrialRecord, read_attrs, record
from wastetune.storage.retry import with_retries

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

RECIPE_OF = "recipe of "  # the keys of a fingerprint that tell by which recipe something is made
FIRST_RECIPE = "1"  # of what a fingerprint does not name
# Keys of study files that came later, with the value of studies whose fingerprint does not name them.
LATER = {"split": "grouped", "sampler": "tpe", "pruner": "median"}
# What fingerprints of 0.1.0 hold besides: its recipes are all the first.
FIRST_VERSION = {"wastetune version": "0.1.0"}


def open_study(
    storage: "BaseStorage",
    name: str,
    fingerprint: Mapping[str, str],
    explain: Callable[[str, str], str] = lambda key, then: "",
    directions: Sequence[Literal["maximize", "minimize"]] = ("maximize",),
) -> "optuna.Study":
    """The study of that name, created if it does not exist, with the direction of each objective, the score first.

    UserError where it was created with another fingerprint; the sentence names the difference. `explain` may say more
    of a key that had another value then than both values do.
    """
    import optuna

    def create() -> "optuna.Study":
        return optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)

    with exclusive(engine_of(storage), f"study {name}", timeout=LONG_TIMEOUT):
        study = with_retries(create)
        stored = get_study_attr(study, "fingerprint")
        if stored is None:
            set_study_attr(study, "id", secrets.token_hex(8))  # a name may be used again after a study was deleted
            set_study_attr(study, "fingerprint", dict(fingerprint))
            return study
    if differing := compare_fingerprints(stored, fingerprint):
        differences = (
            f"{key}: {explain(key, str(then)) or f'then {then}, now {now}'}" for key, (then, now) in differing.items()
        )
        raise UserError(
            f"study {name!r} was begun with another {', '.join(differing)} ({'; '.join(differences)}); "
            f"{_versions_differ(study, differing)}copy the study's file to a new name, or give another --storage"
        )
    return study


def compare_fingerprints(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """What differs between two fingerprints: key -> both values, None where there is none.

    The version of wastetune does not count; what decides a score has recipes, which are the first where they are not
    named, as keys that came later have their default.
    """

    def value(fingerprint: Mapping[str, str], key: str) -> str | None:
        return fingerprint.get(key, FIRST_RECIPE if key.startswith(RECIPE_OF) else LATER.get(key))

    keys = [key for key in {**then, **now} if key not in FIRST_VERSION]
    return {key: (value(then, key), value(now, key)) for key in keys if value(then, key) != value(now, key)}


def _versions_differ(study: "optuna.Study", differing: Iterable[str]) -> str:
    """What a recipe means to a user, where recipes are among what differs."""
    if not any(key.startswith(RECIPE_OF) for key in differing):
        return ""
    info = read_study_info(study)
    then = info.tags.get("wastetune", "unknown") if info else "unknown"
    return (
        f"by this version of wastetune ({version('wastetune')}) its configurations have other scores than by the one "
        f"that began it ({then}), which cannot be compared: go on with that version, "
    )


def find_study(storage: "BaseStorage", name: str) -> "optuna.Study":
    """The study of that name. UserError where there is none."""
    import optuna

    try:
        return with_retries(lambda: optuna.load_study(storage=storage, study_name=name))
    except KeyError:
        names = ", ".join(optuna.get_all_study_names(storage)) or "none"
        raise UserError(f"there is no study {name!r} in this database (there: {names}); see --storage") from None


def study_names(storage: "BaseStorage") -> list[str]:
    """The names of all studies in this database, sorted."""
    return sorted(each.study_name for each in with_retries(storage.get_all_studies))


def set_study_attr(study: "optuna.Study", key: str, value: Any) -> None:
    """Stores a JSON value with the study."""
    with_retries(lambda: study.set_user_attr(key, value))


def get_study_attr(study: "optuna.Study", key: str, default: Any = None) -> Any:
    """The value stored with the study under this key."""
    return with_retries(lambda: study.user_attrs).get(key, default)


def settle_study_attr(study: "optuna.Study", key: str, choose: Callable[[], Any]) -> Any:
    """The value stored with the study under this key; where there is none, what `choose` gives is stored first.

    So all workers have the value of the first. A database without locks may keep another one that was chosen at the
    same time.
    """
    with exclusive(engine_of(study._storage), f"study {study.study_name}", timeout=LONG_TIMEOUT):
        if get_study_attr(study, key) is None:
            set_study_attr(study, key, choose())
    return get_study_attr(study, key)


def ask_lock(study: "optuna.Study") -> AbstractContextManager[None]:
    """A lock under which one worker at a time chooses a configuration and creates its trial."""
    return exclusive(engine_of(study._storage), f"turn {study.study_name}")


# Optuna's cache learns of a new trial after the database has it. If a thread reads in between, when another worker has
# failed the trial already, the cache then holds it as running for ever.
CREATING = threading.RLock()


def all_trials(study: "optuna.Study") -> "list[FrozenTrial]":
    """All trials of the study, by number, if the database answers at once."""
    with CREATING:
        return study.get_trials(deepcopy=False)


def read_trials(study: "optuna.Study") -> "list[FrozenTrial]":
    """All trials of the study, by number."""
    return with_retries(lambda: all_trials(study))


def finished_trials(study: "optuna.Study") -> "list[FrozenTrial]":
    """The trials that count towards the budget: complete or pruned."""
    return only_finished(read_trials(study))


def read_records(study: "optuna.Study") -> tuple[TrialRecord, ...]:
    """The records of the trials that have ended, by number."""
    return records_of(read_trials(study))


def records_of(trials: "Sequence[FrozenTrial]") -> tuple[TrialRecord, ...]:
    """The records of those of all trials of a study that ran and have ended."""
    interrupted = interrupted_trials(trials)
    return tuple(
        replace(record(trial), state="interrupted", again=interrupted[trial.number])
        if trial.number in interrupted
        else record(trial)
        for trial in trials
        if trial.state.name in STATES and not is_void(trial)
    )


def best_trial(study: "optuna.Study") -> "FrozenTrial | None":
    """The complete trial with the best score; None before there is one.

    Of equal scores, the one with the lowest costs, then the earliest. Where costs have limits, of the trials within.
    """
    goals = read_goals(study)
    allowed = [trial for trial in _complete(study) if goals.allow(read_attrs(trial).costs)]
    sign = -1 if study.directions[0].name == "MINIMIZE" else 1

    def rank(trial: "FrozenTrial") -> tuple[float, ...]:
        score, *costs = trial.values
        return (-sign * score, *costs, trial.number)

    return min(allowed, key=rank, default=None)


def default_trial(study: "optuna.Study") -> "FrozenTrial | None":
    """The complete trial that ran the default configuration, of the best trial's backbone; None before there is one."""
    best = best_trial(study)
    backbone = read_attrs(best).config.get("backbone") if best else None
    return next((trial for trial in _complete(study) if is_default(trial, backbone)), None)


def _complete(study: "optuna.Study") -> "list[FrozenTrial]":
    return [trial for trial in read_trials(study) if trial.state.name == "COMPLETE"]


@dataclass(frozen=True)
class DataSource:
    """The data set of a study."""

    name: str
    folder: str
    digest: str  # of the images and their split
    classes: tuple[str, ...]
    counts: Mapping[str, int]  # images in train, val and test
    content: str = ""  # digest of the images alone, whatever their split; empty: of an earlier version
    sketch: str = ""  # by which the data set is known again after images came or went; likewise


class StudyInfo(Record):
    """What a study's trackers show of it, stored with the study so that they need neither its file nor its data."""

    question: str
    metric: str
    data: DataSource
    tags: dict[str, str]  # backbone, data set, versions
    objectives: tuple[str, ...] = ()  # the metric and the costs to minimise; empty: the metric alone
    source: str = ""  # the path of its file where it was begun; empty: of an earlier version


def write_study_info(study: "optuna.Study", info: StudyInfo) -> None:
    """Stores the record with the study."""
    set_study_attr(study, _INFO, info.to_dict())


def read_study_info(study: "optuna.Study") -> StudyInfo | None:
    """The record stored with the study; None where wastetune has not run it yet."""
    values = get_study_attr(study, _INFO)
    return None if values is None else StudyInfo.from_dict(values)


def read_goals(study: "optuna.Study") -> Goals:
    """The costs that the study minimises, and the limits that it was last run with."""
    if len(with_retries(lambda: study.directions)) == 1 or (info := read_study_info(study)) is None:
        return Goals()
    return Goals(info.objectives[1:], get_study_attr(study, LIMITS, {}))


_INFO = "about"  # the key in the database
WARM_STARTS = "warm_starts"
LIMITS = "limits"  # of costs
MEASURED = "measured"  # what the costs of all trials are measured against
_OPENINGS = "test_openings"
_OPENED = "test_opened_for"  # earlier versions: the winner of each
STUDY_ATTRS = frozenset(
    {"id", "fingerprint", "trials", "kerastuner_space", _INFO, WARM_STARTS, LIMITS, MEASURED, _OPENINGS, _OPENED}
)  # that wastetune stores with a study


def note_opening(study: "optuna.Study", trials: Sequence[int]) -> tuple[Opening, ...]:
    """Stores with the study that its test pictures are evaluated for these trials; gives all openings of its data.

    The same final model again is no other opening. See `read_openings`.
    """
    own = _own_openings(study.study_name, with_retries(lambda: study.user_attrs))
    if all(list(each.trials) != list(trials) for each in own):
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        own = (*own, Opening(study=study.study_name, trials=tuple(trials), when=when))
        set_study_attr(study, _OPENINGS, [each.to_dict() for each in own])
    return read_openings(study)


def read_openings(study: "optuna.Study") -> tuple[Opening, ...]:
    """The evaluations on test pictures of this data set, by all studies in this database, the earliest first.

    Another seed splits the same pictures anew, so its test set is not fresh either.
    """
    info = read_study_info(study)
    content = info.data.content if info else ""
    found: list[Opening] = []
    for each in with_retries(study._storage.get_all_studies):
        about = each.user_attrs.get(_INFO) or {}
        same = bool(content) and about.get("data", {}).get("content") == content
        if same or each.study_name == study.study_name:
            found += _own_openings(each.study_name, each.user_attrs)
    return tuple(sorted(found, key=lambda opening: opening.when or ""))


def _own_openings(study: str, attrs: Mapping[str, Any]) -> tuple[Opening, ...]:
    stored = attrs.get(_OPENINGS, [[number] for number in attrs.get(_OPENED, ())])
    return tuple(
        Opening.from_dict(each) if isinstance(each, dict) else Opening(study=study, trials=tuple(each))
        for each in stored
    )
