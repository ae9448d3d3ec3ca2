"""The trials of a study in SQL: created, reported, finished. The contract stands in `storage/__init__.py`."""

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from wastetune.signals import deferred_signals
from wastetune.storage.budget import LIVE, LOST, find_duplicate
from wastetune.storage.owner import is_lost, is_mine, this_process
from wastetune.storage.records import TrialAttrs, read_attrs
from wastetune.storage.retry import with_retries
from wastetune.storage.study import CREATING, all_trials, read_trials

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class RunningTrial:
    """A running trial that this process owns."""

    study: "optuna.Study"
    id: int
    number: int
    begun: float | None = None  # by this process's monotonic clock; None where another process began it

    @property
    def storage(self) -> "BaseStorage":
        """The database that the trial is in."""
        return self.study._storage


def begin_trial(
    study: "optuna.Study",
    params: Mapping[str, Any],
    distributions: "Mapping[str, BaseDistribution]",
    attrs: TrialAttrs,
    notes: Mapping[str, Any] | None = None,
) -> RunningTrial:
    """A new running trial, owned by this process; `notes` are what the sampler noted with it."""
    from optuna.trial import TrialState, create_trial

    owner = {**this_process(), "token": secrets.token_hex(8)}
    trial = create_trial(
        state=TrialState.RUNNING,
        params=dict(params),
        distributions=dict(distributions),
        user_attrs=replace(attrs, owner=owner, beat=time.time()).to_dict(),
        system_attrs=dict(notes or {}),
    )
    tried, begun = False, time.monotonic()

    def create() -> RunningTrial:
        nonlocal tried
        if tried:  # the trial may have been created, and only the answer was lost
            for there in all_trials(study):
                if there.user_attrs.get("owner") == owner:
                    return RunningTrial(study, there._trial_id, there.number, begun)
        tried = True
        with CREATING:
            identity = study._storage.create_new_trial(study._study_id, template_trial=trial)
        return RunningTrial(study, identity, study._storage.get_trial_number_from_id(identity), begun)

    return with_retries(create)


def void_reason(trial: RunningTrial, goal: int) -> str | None:
    """Why a new trial must not run: the budget is spent, or an earlier trial has its configuration; else None."""
    trials = read_trials(trial.study)
    earlier = [other for other in trials[: trial.number] if other.state.name in LIVE]
    if len(earlier) >= goal:
        return f"not run: the study had its {goal} trials"
    duplicate = find_duplicate(earlier, read_attrs(trials[trial.number]).config)
    return None if duplicate is None else f"not run: trial {duplicate} has this configuration"


def record_heartbeat(trial: RunningTrial) -> bool:
    """Records a heartbeat; False where another worker has failed the trial, because it presumed this process dead."""
    from optuna.exceptions import UpdateFinishedTrialError

    try:
        trial.storage.set_trial_user_attr(trial.id, "beat", time.time())
    except UpdateFinishedTrialError:
        return False
    return True


def report_score(trial: RunningTrial, epoch: int, score: float) -> None:
    """Reports the score of an epoch."""
    with _unless_finished():
        with_retries(lambda: trial.storage.set_trial_intermediate_value(trial.id, epoch, score))


def note_trial(trial: RunningTrial, key: str, value: Any) -> None:
    """Stores what the pruner notes with the trial."""
    with _unless_finished():
        with_retries(lambda: trial.storage.set_trial_system_attr(trial.id, key, value))


def add_params(trial: RunningTrial, params: "Mapping[str, tuple[Any, BaseDistribution]]") -> None:
    """Adds parameters, each with its distribution, to those that the trial began with; what it has already stays."""
    there = read_trials(trial.study)[trial.number].params
    with _unless_finished():
        for name, (value, drawn) in params.items():
            if name not in there:
                internal = drawn.to_internal_repr(value)
                with_retries(partial(trial.storage.set_trial_param, trial.id, name, internal, drawn))


def set_trial_attrs(trial: RunningTrial, attrs: TrialAttrs) -> None:
    """Stores the attributes that differ from their defaults with the trial."""
    with _unless_finished():
        for key, value in attrs.to_dict().items():
            with_retries(partial(trial.storage.set_trial_user_attr, trial.id, key, value))


def complete_trial(trial: RunningTrial, score: float, costs: Sequence[float] = ()) -> "FrozenTrial":
    """Finishes the trial as complete, with its score and, in a study with several objectives, its costs."""
    return _finish(trial, "COMPLETE", [score, *costs])


def prune_trial(trial: RunningTrial) -> "FrozenTrial":
    """Finishes the trial as pruned."""
    return _finish(trial, "PRUNED")


def fail_trial(trial: RunningTrial, reason: str, *, void: bool = False) -> "FrozenTrial":
    """Finishes the trial as failed, with the reason; `void` where it was one too many and never ran."""
    set_trial_attrs(trial, TrialAttrs(failure=reason, void=void))
    return _finish(trial, "FAIL")


def release_trials(study: "optuna.Study", reason: str) -> None:
    """Fails the running trials of this process, which has to end, so that their configurations are tried again.

    Does not wait for an unavailable database: other workers then find the trials lost.
    """
    from optuna.trial import TrialState

    with contextlib.suppress(Exception), deferred_signals():
        for trial in study.get_trials(deepcopy=False):
            if trial.state is TrialState.RUNNING and is_mine(trial.user_attrs.get("owner")):
                for key, value in TrialAttrs(failure=reason, handed_back=True).to_dict().items():
                    study._storage.set_trial_user_attr(trial._trial_id, key, value)
                study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def _finish(trial: RunningTrial, state: str, values: Sequence[float] | None = None) -> "FrozenTrial":
    from optuna.trial import TrialState

    if trial.begun is not None:
        set_trial_attrs(trial, TrialAttrs(seconds=round(time.monotonic() - trial.begun, 3)))
    with _unless_finished():
        with_retries(lambda: trial.storage.set_trial_state_values(trial.id, TrialState[state], values))
    return read_trials(trial.study)[trial.number]


@contextlib.contextmanager
def _unless_finished() -> Iterator[None]:
    """Ignores writes to a trial that another worker has finished, because it presumed this process dead."""
    from optuna.exceptions import UpdateFinishedTrialError

    with contextlib.suppress(UpdateFinishedTrialError):
        yield


def fail_lost_trials(study: "optuna.Study", silent: "Sequence[FrozenTrial]" = ()) -> list[int]:
    """Fails the running trials whose process on this machine is gone, and those in `silent`; gives their numbers."""
    lost = [
        RunningTrial(study, trial._trial_id, trial.number)
        for trial in read_trials(study)
        if trial.state.name == "RUNNING" and (trial in silent or is_lost(trial.user_attrs.get("owner")))
    ]
    for trial in lost:
        fail_trial(trial, LOST)
    return [trial.number for trial in lost]
