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
  another one's twin is seen to be so by its number (`void_reason`): of any two, the later one yields. So the budget is
  exact without a lock. Workers take turns at beginning trials all the same (`turn`), so that this hardly ever happens.
- A trial whose worker is gone is FAIL, "worker lost", and its configuration is tried again, twice at most. One that
  was handed back, by Ctrl-C or SIGTERM, is tried again; one that failed by itself is not, but for the default.
- A finished trial is immutable: what a worker tells that was taken for dead is not heard.
- A database that is away is waited for (`patience`).
"""

import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from wastetune.signals import deferred_signals
from wastetune.storage.budget import LIVE, LOST, find_duplicate
from wastetune.storage.owner import is_lost, is_mine, this_process
from wastetune.storage.retry import with_retries
from wastetune.storage.study import read_trials
from wastetune.training.config import TrialConfig

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class RunningTrial:
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
) -> RunningTrial:
    """A new running trial, owned by this process."""
    from optuna.trial import TrialState, create_trial

    owner = {**this_process(), "token": secrets.token_hex(8)}
    now = {"owner": owner, "beat": time.time()}
    trial = create_trial(
        state=TrialState.RUNNING,
        params=dict(params),
        distributions=dict(distributions),
        user_attrs={**attrs, **now},
    )
    tried = False

    def create() -> RunningTrial:
        nonlocal tried
        if tried:  # it may have entered, and only the answer was lost
            for there in study.get_trials(deepcopy=False):
                if there.user_attrs.get("owner") == owner:
                    return RunningTrial(study, there._trial_id, there.number)
        tried = True
        identity = study._storage.create_new_trial(study._study_id, template_trial=trial)
        return RunningTrial(study, identity, study._storage.get_trial_number_from_id(identity))

    return with_retries(create)


def void_reason(trial: RunningTrial, goal: int) -> str | None:
    """Why a trial that has just begun must not run: the study needs no more, or another one has its configuration."""
    trials = read_trials(trial.study)
    earlier = [other for other in trials[: trial.number] if other.state.name in LIVE]
    if len(earlier) >= goal:
        return f"not run: the study had its {goal} trials"
    twin = find_duplicate(earlier, TrialConfig.model_validate(trials[trial.number].user_attrs["config"]))
    return None if twin is None else f"not run: trial {twin} has this configuration"


def record_heartbeat(trial: RunningTrial) -> bool:
    """Gives a sign of life; False where the trial was finished by somebody who took this process for dead."""
    from optuna.exceptions import UpdateFinishedTrialError

    try:
        trial.storage.set_trial_user_attr(trial.id, "beat", time.time())
    except UpdateFinishedTrialError:
        return False
    return True


def report_score(trial: RunningTrial, epoch: int, score: float) -> None:
    """Tells the score after an epoch."""
    with _unless_finished():
        with_retries(lambda: trial.storage.set_trial_intermediate_value(trial.id, epoch, score))


def set_trial_attrs(trial: RunningTrial, attrs: Mapping[str, Any]) -> None:
    """Leaves with the trial what a reader may ask for."""
    with _unless_finished():
        for key, value in attrs.items():
            with_retries(partial(trial.storage.set_trial_user_attr, trial.id, key, value))


def complete_trial(trial: RunningTrial, score: float) -> "FrozenTrial":
    """Tells the trial's score."""
    return _finish(trial, "COMPLETE", score)


def prune_trial(trial: RunningTrial) -> "FrozenTrial":
    """Tells that the trial was not worth going on with."""
    return _finish(trial, "PRUNED")


def fail_trial(trial: RunningTrial, reason: str, *, void: bool = False) -> "FrozenTrial":
    """Tells that the trial came to nothing, and why; `void` where it was one too many and never ran."""
    set_trial_attrs(trial, {"failure": reason, **({"void": True} if void else {})})
    return _finish(trial, "FAIL")


def release_trials(study: "optuna.Study", reason: str) -> None:
    """Tells FAIL to what this process has in hand; somebody is to try it again, for this process has to end.

    It does not wait for a database that is away: then the trial is lost, and found to be.
    """
    from optuna.trial import TrialState

    with contextlib.suppress(Exception), deferred_signals():
        for trial in study.get_trials(deepcopy=False):
            if trial.state is TrialState.RUNNING and is_mine(trial.user_attrs.get("owner")):
                for key, value in (("failure", reason), ("handed_back", True)):
                    study._storage.set_trial_user_attr(trial._trial_id, key, value)
                study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def _finish(trial: RunningTrial, state: str, score: float | None = None) -> "FrozenTrial":
    from optuna.trial import TrialState

    with _unless_finished():
        values = None if score is None else [score]
        with_retries(lambda: trial.storage.set_trial_state_values(trial.id, TrialState[state], values))
    return read_trials(trial.study)[trial.number]


@contextlib.contextmanager
def _unless_finished() -> Iterator[None]:
    """A trial that another process has finished, because it took this one for dead, stays as it is."""
    from optuna.exceptions import UpdateFinishedTrialError

    with contextlib.suppress(UpdateFinishedTrialError):
        yield


def fail_lost_trials(study: "optuna.Study", silent: "Sequence[FrozenTrial]" = ()) -> list[int]:
    """Tells FAIL to the running trials whose process on this machine is gone, and to those whose worker has been
    silent for too long; gives their numbers."""
    lost = [
        RunningTrial(study, trial._trial_id, trial.number)
        for trial in read_trials(study)
        if trial.state.name == "RUNNING" and (trial in silent or is_lost(trial.user_attrs.get("owner")))
    ]
    for trial in lost:
        fail_trial(trial, LOST)
    return [trial.number for trial in lost]
