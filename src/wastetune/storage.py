"""A study in SQL: create or join it, count its budget, begin and end its trials.

The contract, on SQLite and on every other database that Optuna speaks, over any number of workers:

- The SQL study is the truth. What is told stays told; MLflow and the report are made from it.
- A study belongs to one question: its fingerprint (study file, space, data and split, weights, version) is
  stored with it, and whoever comes with another one is refused and told what differs.
- The budget counts finished trials, complete or pruned. A failed trial is FAIL with its reason in the user
  attribute `failure`; it has no value and uses up no budget.
- Trial 0 is the default configuration. It carries the user attribute `default`, and so does the trial that
  takes its place where it failed.
- A trial enters the database whole, in one transaction: parameters, configuration, and `owner`, the host and
  process that runs it. Numbers are given in the order of those transactions, and a trial that began too many or is
  another one's twin is seen to be so by its number (`why_void`): of any two, the later one yields. So the budget is
  exact without a lock. Workers take turns at beginning trials all the same (`turn`), so that this hardly ever happens.
- A trial whose worker is gone is FAIL, "worker lost", and its configuration is tried again, twice at most. One that
  was handed back, by Ctrl-C or SIGTERM, is tried again; one that failed by itself is not, but for the default.
- A finished trial is immutable: what a worker tells that was taken for dead is not heard.
- A database that is away is waited for (`patience`).
"""

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune.database import engine_of
from wastetune.errors import UserError
from wastetune.interrupts import held_interrupts
from wastetune.locks import LONG, alone
from wastetune.patience import patiently
from wastetune.space import TrialConfig

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

LOST = "worker lost"
# Times that the configuration of a lost trial is tried again.
MAX_RETRIES = 2
_CLOCK_STEP = 10.0  # seconds; a process's start is told by the system's clock, which may be set
_LIVE = ("COMPLETE", "PRUNED", "RUNNING")


def open_study(storage: "BaseStorage", name: str, fingerprint: Mapping[str, str]) -> "optuna.Study":
    """The study of that name, created if it is not there.

    UserError where it was begun with another fingerprint, naming what differs.
    """
    import optuna

    def create() -> "optuna.Study":
        return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)

    with alone(engine_of(storage), f"study {name}", patience=LONG):
        study = patiently(create)
        begun_with = recall(study, "fingerprint")
        if begun_with is None:
            remember(study, "id", secrets.token_hex(8))  # one name may be used again after a study was deleted
            remember(study, "fingerprint", dict(fingerprint))
            return study
    if differing := [key for key in {**begun_with, **fingerprint} if begun_with.get(key) != fingerprint.get(key)]:
        differences = (f"{key}: then {begun_with.get(key)}, now {fingerprint.get(key)}" for key in differing)
        raise UserError(
            f"study {name!r} was begun with another {', '.join(differing)} ({'; '.join(differences)}); "
            "copy the study's file to a new name, or give another --storage"
        )
    return study


def find_study(storage: "BaseStorage", name: str) -> "optuna.Study":
    """The study of that name. UserError where there is none."""
    import optuna

    try:
        return patiently(lambda: optuna.load_study(storage=storage, study_name=name))
    except KeyError:
        names = ", ".join(optuna.get_all_study_names(storage)) or "none"
        raise UserError(f"there is no study {name!r} in this database (there: {names}); see --storage") from None


def remember(study: "optuna.Study", key: str, value: Any) -> None:
    """Writes something down that belongs to the study, for whoever joins it."""
    patiently(lambda: study.set_user_attr(key, value))


def recall(study: "optuna.Study", key: str, default: Any = None) -> Any:
    """What was written down under that key."""
    return patiently(lambda: study.user_attrs).get(key, default)


def turn(study: "optuna.Study") -> AbstractContextManager[None]:
    """Inside, no other worker chooses or begins a trial of this study."""
    return alone(engine_of(study._storage), f"turn {study.study_name}")


@dataclass(frozen=True)
class InHand:
    """A running trial in this process's hands."""

    study: "optuna.Study"
    id: int
    number: int

    @property
    def storage(self) -> "BaseStorage":
        """Where it is written."""
        return self.study._storage


def begin_trial(
    study: "optuna.Study",
    params: Mapping[str, Any],
    distributions: "Mapping[str, BaseDistribution]",
    attrs: Mapping[str, Any],
) -> InHand:
    """A new running trial, owned by this process."""
    from optuna.trial import TrialState, create_trial

    owner = {**_this_process(), "token": secrets.token_hex(8)}
    now = {"owner": owner, "beat": time.time()}
    trial = create_trial(
        state=TrialState.RUNNING,
        params=dict(params),
        distributions=dict(distributions),
        user_attrs={**attrs, **now},
    )
    tried = False

    def create() -> InHand:
        nonlocal tried
        if tried:  # it may have entered, and only the answer was lost
            for there in study.get_trials(deepcopy=False):
                if there.user_attrs.get("owner") == owner:
                    return InHand(study, there._trial_id, there.number)
        tried = True
        identity = study._storage.create_new_trial(study._study_id, template_trial=trial)
        return InHand(study, identity, study._storage.get_trial_number_from_id(identity))

    return patiently(create)


def why_void(trial: InHand, goal: int) -> str | None:
    """Why a trial that has just begun must not run: the study needs no more, or another one has its configuration."""
    trials = read_trials(trial.study)
    earlier = [other for other in trials[: trial.number] if other.state.name in _LIVE]
    if len(earlier) >= goal:
        return f"not run: the study had its {goal} trials"
    twin = find_twin(earlier, TrialConfig.model_validate(trials[trial.number].user_attrs["config"]))
    return None if twin is None else f"not run: trial {twin} has this configuration"


def beat(trial: InHand) -> bool:
    """Gives a sign of life; False where the trial was finished by somebody who took this process for dead."""
    from optuna.exceptions import UpdateFinishedTrialError

    try:
        trial.storage.set_trial_user_attr(trial.id, "beat", time.time())
    except UpdateFinishedTrialError:
        return False
    return True


def report(trial: InHand, epoch: int, score: float) -> None:
    """Tells the score after an epoch."""
    with _unless_finished():
        patiently(lambda: trial.storage.set_trial_intermediate_value(trial.id, epoch, score))


def record(trial: InHand, attrs: Mapping[str, Any]) -> None:
    """Leaves with the trial what a reader may ask for."""
    with _unless_finished():
        for key, value in attrs.items():
            patiently(partial(trial.storage.set_trial_user_attr, trial.id, key, value))


def complete(trial: InHand, score: float) -> "FrozenTrial":
    """Tells the trial's score."""
    return _finish(trial, "COMPLETE", score)


def prune(trial: InHand) -> "FrozenTrial":
    """Tells that the trial was not worth going on with."""
    return _finish(trial, "PRUNED")


def fail(trial: InHand, reason: str, *, void: bool = False) -> "FrozenTrial":
    """Tells that the trial came to nothing, and why; `void` where it was one too many and never ran."""
    record(trial, {"failure": reason, **({"void": True} if void else {})})
    return _finish(trial, "FAIL")


def hand_back(study: "optuna.Study", reason: str) -> None:
    """Tells FAIL to what this process has in hand; somebody is to try it again, for this process has to end.

    It does not wait for a database that is away: then the trial is lost, and found to be.
    """
    from optuna.trial import TrialState

    with contextlib.suppress(Exception), held_interrupts():
        for trial in study.get_trials(deepcopy=False):
            if trial.state is TrialState.RUNNING and _is_mine(trial.user_attrs.get("owner")):
                for key, value in (("failure", reason), ("handed_back", True)):
                    study._storage.set_trial_user_attr(trial._trial_id, key, value)
                study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def _finish(trial: InHand, state: str, score: float | None = None) -> "FrozenTrial":
    from optuna.trial import TrialState

    with _unless_finished():
        values = None if score is None else [score]
        patiently(lambda: trial.storage.set_trial_state_values(trial.id, TrialState[state], values))
    return read_trials(trial.study)[trial.number]


@contextlib.contextmanager
def _unless_finished() -> Iterator[None]:
    """A trial that another process has finished, because it took this one for dead, stays as it is."""
    from optuna.exceptions import UpdateFinishedTrialError

    with contextlib.suppress(UpdateFinishedTrialError):
        yield


def read_trials(study: "optuna.Study") -> "list[FrozenTrial]":
    """All trials of the study, in order."""
    return patiently(lambda: study.get_trials(deepcopy=False))


def finished_trials(study: "optuna.Study") -> "list[FrozenTrial]":
    """The trials that the budget counts: complete or pruned."""
    return only_finished(read_trials(study))


def only_finished(trials: "Iterable[FrozenTrial]") -> "list[FrozenTrial]":
    """Those of the trials that the budget counts: complete or pruned."""
    return [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]


def count_live(trials: "Iterable[FrozenTrial]") -> int:
    """How many of the trials use up budget, or will unless they fail: finished or running."""
    return sum(trial.state.name in _LIVE for trial in trials)


def default_is_due(trials: "Iterable[FrozenTrial]") -> bool:
    """Whether the default configuration has not run and does not run."""
    return not any(trial.user_attrs.get("default") and trial.state.name in ("COMPLETE", "RUNNING") for trial in trials)


def find_twin(trials: "Iterable[FrozenTrial]", config: TrialConfig) -> int | None:
    """The number of a trial that has, or had, this very configuration. What is to be tried again is `retry_due`."""
    wanted = config.model_dump()
    for trial in trials:
        if trial.user_attrs.get("config") == wanted and trial.state.name != "WAITING" and not is_void(trial):
            return trial.number
    return None


def is_void(trial: "FrozenTrial") -> bool:
    """Whether it was begun and never run, because it was one too many."""
    return bool(trial.user_attrs.get("void"))


def retry_due(trials: "Iterable[FrozenTrial]") -> "FrozenTrial | None":
    """A trial whose configuration is to be tried again: lost with its worker, not too often, or handed back."""
    same: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        if "config" in trial.user_attrs and not is_void(trial):
            same.setdefault(json.dumps(trial.user_attrs["config"], sort_keys=True), []).append(trial)
    for group in same.values():
        if all(trial.state.name == "FAIL" for trial in group) and not times_lost(group) > MAX_RETRIES:
            last = group[-1]
            if last.user_attrs.get("handed_back") or last.user_attrs.get("failure") == LOST:
                return last
    return None


def times_lost(trials: "Iterable[FrozenTrial]") -> int:
    """How many of the trials were lost with their workers."""
    return sum(trial.user_attrs.get("failure") == LOST for trial in trials)


def fail_lost(study: "optuna.Study", silent: "Sequence[FrozenTrial]" = ()) -> list[int]:
    """Tells FAIL to the running trials whose process on this machine is gone, and to those whose worker has been
    silent for too long; gives their numbers."""
    lost = [
        InHand(study, trial._trial_id, trial.number)
        for trial in read_trials(study)
        if trial.state.name == "RUNNING" and (trial in silent or _is_lost(trial.user_attrs.get("owner")))
    ]
    for trial in lost:
        fail(trial, LOST)
    return [trial.number for trial in lost]


def best_trial(study: "optuna.Study") -> "FrozenTrial | None":
    """The complete trial with the highest score, the earliest of equals; None before there is one."""
    complete = _complete(study)
    return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)


def default_trial(study: "optuna.Study") -> "FrozenTrial | None":
    """The complete trial that ran the default configuration; None before there is one."""
    return next((trial for trial in _complete(study) if trial.user_attrs.get("default")), None)


def _complete(study: "optuna.Study") -> "list[FrozenTrial]":
    return [trial for trial in read_trials(study) if trial.state.name == "COMPLETE"]


def _started(pid: int) -> float | None:
    """When a process of this machine began; None if there is none. A pid alone may have been given again."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


@cache
def _process_space() -> str:
    """Where process numbers mean the same: another container, or another machine, may have the same host name."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/self/ns/pid').readlink()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    return ""


def _this_process() -> dict[str, Any]:
    """Who this is, as it stands in a trial's `owner`."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": _started(pid), "space": _process_space()}


def _is_mine(owner: Mapping[str, Any] | None) -> bool:
    return owner is not None and owner["pid"] == os.getpid() and _is_here(owner) and not _is_lost(owner)


def _is_here(owner: Mapping[str, Any]) -> bool:
    return (owner["host"], owner.get("space", "")) == (socket.gethostname(), _process_space())


def _is_lost(owner: Mapping[str, Any] | None) -> bool:
    if owner is None or not _is_here(owner):
        return False
    started = _started(owner["pid"])
    return started is None or abs(started - owner["started"]) >= _CLOCK_STEP
