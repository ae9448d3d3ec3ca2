"""KerasTuner's tuners on a study in SQL: `OptunaOracle` takes the place of the oracle, and nothing else changes.

    oracle = OptunaOracle(study="my_study", objective="val_accuracy", max_trials=30)
    tuner = keras_tuner.Tuner(oracle=oracle, hypermodel=build)

Every process that runs the script is a worker of the same study: there is no chief. This module imports KerasTuner.
"""

import json
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

from wastetune.errors import optional_import
from wastetune.search.hyperparameters import check_hyperparameters, distribution_of, is_value, suggest
from wastetune.search.sampler import (
    InMemoryStudy,
    Proposal,
    open_in_memory_study,
    propose,
    propose_at_random,
    propose_this,
)
from wastetune.seeding import seed_for
from wastetune.settings import STORAGE
from wastetune.storage.budget import LIVE, LOST, find_duplicate, is_void, retry_due, was_interrupted
from wastetune.storage.database import open_storage
from wastetune.storage.heartbeat import heartbeats
from wastetune.storage.owner import is_mine
from wastetune.storage.records import TrialAttrs, read_attrs
from wastetune.storage.study import ask_lock, get_study_attr, open_study, read_trials, set_study_attr
from wastetune.storage.trials import (
    RunningTrial,
    add_params,
    begin_trial,
    complete_trial,
    fail_lost_trials,
    fail_trial,
    release_trials,
    report_score,
    set_trial_attrs,
    void_reason,
)
from wastetune.training.custom_head import asked_hyperparameters, is_fixed

with optional_import("KerasTuner", "kerastuner"):
    import keras_tuner
    from keras_tuner.engine.trial import Trial, TrialStatus

if TYPE_CHECKING:
    from optuna.trial import BaseTrial, FrozenTrial

_MOST_REPEATS = 20  # proposals in a row that were tried before: KerasTuner's number of collisions
_WAIT = 0.5  # seconds between two reads of the study while other processes run the last trials
_SPACE = "kerastuner_space"  # the attribute of the study


class OptunaOracle(keras_tuner.Oracle):  # type: ignore[misc]
    """An oracle of KerasTuner whose trials are those of an Optuna study in SQL, proposed by TPE.

    `study` is the name of the study, `storage` the URL of its database (default: `WASTETUNE_STORAGE`, else
    sqlite:///wastetune.db). The other arguments are those of every oracle. `max_trials` counts the trials of all
    processes and runs together; a trial whose process is gone is tried again instead, twice at most. Trial 0 has the
    default of each hyperparameter.

    UserError where the database cannot be opened, the study was begun with another objective, or one name stands for
    two kinds of values.
    """

    def __init__(
        self,
        *,
        study: str,
        storage: str | None = None,
        objective: Any = None,
        max_trials: int | None = 10,
        seed: int | None = None,
        hyperparameters: Any = None,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
    ) -> None:
        super().__init__(
            objective=objective,
            max_trials=max_trials,
            hyperparameters=hyperparameters,
            allow_new_entries=allow_new_entries,
            tune_new_entries=tune_new_entries,
            seed=seed,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
        )
        direction: Literal["maximize", "minimize"] = "maximize" if self.objective.direction == "max" else "minimize"
        fingerprint = {"objective": str(self.objective)}
        self._study = open_study(open_storage(STORAGE.resolve(storage)), study, fingerprint, directions=(direction,))
        if max_trials:
            set_study_attr(self._study, "trials", max_trials)
        self._memory: InMemoryStudy = open_in_memory_study(directions=(direction,))
        self._held: dict[str, tuple[RunningTrial, ExitStack]] = {}  # running trials, and what sends their heartbeats
        self._saved_space: Any = None
        # A notebook's cell that was interrupted leaves a trial behind; the same cell, run again, gets here.
        release_trials(self._study, "interrupted")
        weakref.finalize(self, release_trials, self._study, "interrupted")  # when the process ends, at the latest

    @keras_tuner.synchronized  # type: ignore[untyped-decorator]
    def create_trial(self, tuner_id: str) -> Any:
        """The next trial: one to be retried, one of another process that is gone, or a new one."""
        if tuner_id in self.ongoing_trials or self._retry_queue:
            return super().create_trial(tuner_id)
        self.tuner_ids.add(tuner_id)
        status, values, number = self._next()
        hyperparameters = self.hyperparameters.copy()
        hyperparameters.values = values
        trial = Trial(hyperparameters=hyperparameters, trial_id=_trial_id(number), status=status)
        if status == TrialStatus.RUNNING:
            self._record_values(trial)
            self.ongoing_trials[tuner_id] = self.trials[trial.trial_id] = trial
            self.start_order.append(trial.trial_id)
            self._save_trial(trial)
            self.save()
            self._display.on_trial_begin(trial)
        elif status == TrialStatus.IDLE:
            time.sleep(_WAIT)
        else:
            self.tuner_ids.remove(tuner_id)
        return trial

    @keras_tuner.synchronized  # type: ignore[untyped-decorator]
    def update_trial(self, trial_id: str, metrics: dict[str, float], step: int = 0) -> Any:
        """Notes the metrics of a step; the objective's value is also reported to the study."""
        trial = super().update_trial(trial_id, metrics, step)
        if trial_id in self._held and self.objective.has_value(metrics):
            report_score(self._held[trial_id][0], step, float(self.objective.get_value(metrics)))
        return trial

    @keras_tuner.synchronized  # type: ignore[untyped-decorator]
    def end_trial(self, trial: Any) -> None:
        """Ends a trial in the study, unless it is to be retried."""
        try:
            super().end_trial(trial)
        finally:  # also where so many failed that KerasTuner gives up
            ended = self.trials[trial.trial_id]
            if ended.status != TrialStatus.INVALID:
                self._finish(ended)

    def get_best_trials(self, num_trials: int = 1) -> list[Any]:
        """The best trials of the study, by whatever process they were run."""
        self._refresh(read_trials(self._study))
        return list(super().get_best_trials(num_trials))

    def remaining_trials(self) -> int | None:
        """The number of trials that are still to be begun; None without `max_trials`."""
        return max(self.max_trials - _count(read_trials(self._study)), 0) if self.max_trials else None

    def save(self) -> None:
        """Stores the space with the study; the trials are there already."""
        space = json.loads(json.dumps(self.hyperparameters.get_config()["space"]))
        if space != self._saved_space:
            set_study_attr(self._study, _SPACE, space)
            self._saved_space = space

    def reload(self) -> None:
        """Reads the space and the trials from the study."""
        space = get_study_attr(self._study, _SPACE, [])
        self.update_space(keras_tuner.HyperParameters.from_config({"space": space, "values": {}}))
        self._refresh(read_trials(self._study))

    def _next(self) -> tuple[str, dict[str, Any], int]:
        """What a tuner does next: a status of KerasTuner, and the values and the number of a trial that is begun."""
        goal = self.max_trials or sys.maxsize
        fail_lost_trials(self._study)
        with ask_lock(self._study):
            known = read_trials(self._study)
            self._refresh(known)
            # A trial of another process may be lost yet, and then somebody has to be here.
            others = any(each.state.name == "RUNNING" and not is_mine(read_attrs(each).owner) for each in known)
            wait = TrialStatus.IDLE if others else TrialStatus.STOPPED
            default = not any(read_attrs(each).default for each in known)
            proposal = self._propose(known, default) if _count(known) < goal else None
            if proposal is None:
                return wait, {}, len(known)
            attrs = TrialAttrs(config=proposal.config, default=default)
            running = begin_trial(self._study, proposal.params, proposal.distributions, attrs)
        # Where the lock did not hold, another process has begun a trial meanwhile.
        if running.number > len(known) and (reason := void_reason(running, goal)):
            fail_trial(running, reason, void=True)
            return TrialStatus.IDLE, {}, running.number
        stack = ExitStack()
        stack.enter_context(heartbeats(self._study)).hold(running)
        self._held[_trial_id(running.number)] = (running, stack)
        return TrialStatus.RUNNING, dict(proposal.config), running.number

    def _propose(self, known: "Sequence[FrozenTrial]", default: bool) -> Proposal[dict[str, Any]] | None:
        """Values to run; None where the space has none left."""
        check_hyperparameters("the hypermodel", self.hyperparameters.space, defaults=False)
        if default:
            return self._propose_this({})
        if retry := retry_due(known):
            return self._propose_this(retry.params)
        for attempt in range(_MOST_REPEATS):
            seed = seed_for("sampler", self.seed, len(known), attempt)
            proposal = (
                propose_at_random(self._memory, self._values, seed=seed)
                if attempt
                else propose(self._memory, known, self._values, seed=seed)
            )
            if not _is_known(known, proposal.config):
                return proposal
        return None

    def _propose_this(self, given: Mapping[str, Any]) -> Proposal[dict[str, Any]]:
        """These values, and the default of each hyperparameter that has none among them."""
        return propose_this(self._ask_all(lambda hp: given.get(hp.name, _default(hp))), self._values)

    def _values(self, trial: "BaseTrial") -> dict[str, Any]:
        return self._ask_all(lambda hp: suggest(trial, hp.name, hp))

    def _ask_all(self, ask: Callable[[Any], Any]) -> dict[str, Any]:
        """The values of all hyperparameters that are active, asked in KerasTuner's order: parents come first."""
        hps = asked_hyperparameters()(ask)
        for hp in self.hyperparameters.space:
            hps._retrieve(hp)
        return dict(hps.values)

    def _finish(self, trial: Any) -> None:
        """Ends the trial in the study, with the hyperparameters that its build asked for the first time."""
        if trial.trial_id not in self._held:
            return
        running, stack = self._held.pop(trial.trial_id)
        stack.close()
        values = trial.hyperparameters.values
        active = [hp for hp in self.hyperparameters.space if trial.hyperparameters.is_active(hp) and not is_fixed(hp)]
        add_params(running, {hp.name: (values[hp.name], distribution_of(hp)) for hp in active if hp.name in values})
        state = json.loads(json.dumps(trial.get_state(), default=float))
        set_trial_attrs(running, TrialAttrs(config=values, kerastuner=state))
        if trial.status == TrialStatus.COMPLETED and trial.score is not None:
            ended = complete_trial(running, float(trial.score))
        else:
            ended = fail_trial(running, _reason(trial.message))
        if read_attrs(ended).failure == LOST:  # presumed dead: another process has it now
            self.trials.pop(trial.trial_id)

    def _refresh(self, known: "Sequence[FrozenTrial]") -> None:
        """Takes over the ended trials of other processes and of earlier runs, and what they added to the space."""
        for each in known:
            state, trial_id = read_attrs(each).kerastuner, _trial_id(each.number)
            if state is None or trial_id in self.trials or not each.state.is_finished():
                continue
            self.trials[trial_id] = trial = Trial.from_state(json.loads(json.dumps(state)))
            if self.allow_new_entries:
                self.update_space(trial.hyperparameters)


def _trial_id(number: int) -> str:
    """The number as KerasTuner writes it, also into the names of folders; of one width whatever `max_trials` is."""
    return f"{number:04d}"


def _count(known: "Sequence[FrozenTrial]") -> int:
    """The trials that use up `max_trials`: as in KerasTuner failed ones, too, but none that is tried again."""
    return sum(not is_void(each) and not was_interrupted(each) for each in known)


def _is_known(known: "Sequence[FrozenTrial]", values: dict[str, Any]) -> bool:
    """Whether a trial had or has these values."""
    if values:
        return find_duplicate(known, values) is not None
    # Before a first build has told what there is to search, one trial is enough.
    return any(each.state.name in LIVE and not read_attrs(each).config for each in known)


def _default(hp: Any) -> Any:
    """The default, or the first value where the default is none: KerasTuner does not mind."""
    if is_fixed(hp) or is_value(hp, hp.default):
        return hp.default
    drawn = distribution_of(hp)
    return drawn.choices[0] if hasattr(drawn, "choices") else drawn.low  # type: ignore[attr-defined]


def _reason(message: str | None) -> str:
    """The last line of a traceback."""
    lines = (message or "").strip().splitlines()
    return lines[-1][:500] if lines else "failed"
