"""Frozen records of a trial: its user attributes, what a reader of a finished search needs; and of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from wastetune.evaluation.objectives import Goals, pareto_front
from wastetune.record import Record

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class TrialAttrs:
    """The user attributes of a trial, one field per key; a field with its default has no key in the database."""

    config: Mapping[str, Any] = field(default_factory=dict)
    cut: str | None = None  # the block of the backbone below which everything was frozen
    default: bool = False  # whether the configuration is the default of the search space
    origin: str = ""  # the trial of an earlier study that the configuration is from: "my_study, trial 12"
    owner: Mapping[str, Any] | None = None  # the process that runs it, see `owner.py`
    beat: float | None = None  # time of the last heartbeat, by the worker's clock
    history: Sequence[Mapping[str, Any]] = ()  # per epoch: number, loss, score, accuracy, seconds
    seed: int | None = None
    best_epoch: int | None = None
    val_accuracy: float | None = None  # of the best epoch
    confusion_matrix: Sequence[Sequence[int]] | None = None  # of the best epoch, on the validation images
    trainable_parameters: int | None = None
    costs: Mapping[str, float] = field(default_factory=dict)  # of its model, in a study with several objectives
    seconds: float | None = None  # from begin to end, by a clock that never jumps; None: of an earlier version, or lost
    activation_seconds: float | None = None  # spent on activations, which all trials share
    failure: str = ""  # why a trial is FAIL
    void: bool = False  # failed before it ran, because the budget was spent or another trial had its configuration
    kerastuner: Mapping[str, Any] | None = None  # the trial as KerasTuner has it, in a study of `keras_tuner.py`
    handed_back: bool = False  # failed because its worker was interrupted; the configuration is tried again

    def to_dict(self) -> dict[str, Any]:
        """What is written to the database: the fields that differ from their defaults."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value != _DEFAULTS[name]}


_DEFAULTS = {each.name: getattr(TrialAttrs(), each.name) for each in fields(TrialAttrs)}


def read_attrs(trial: "FrozenTrial") -> TrialAttrs:
    """The user attributes of a trial; keys that wastetune does not know are left out."""
    return TrialAttrs(**{key: value for key, value in trial.user_attrs.items() if key in _DEFAULTS})


def trial_score(trial: "FrozenTrial") -> float | None:
    """The score of a complete trial, which is the first of several objectives; None of any other."""
    return trial.values[0] if trial.values else None


def trial_seconds(trial: "FrozenTrial") -> float:
    """How long a trial ran: as its worker measured it, else between its dates, which a jump of the clock falsifies."""
    measured = read_attrs(trial).seconds
    if measured is not None:
        return measured
    return max(trial.duration.total_seconds(), 0.0) if trial.duration else 0.0


@dataclass(frozen=True)
class TrialRecord:
    """A trial that has ended. Its score is that of the best epoch; of a pruned trial the last one reported, if any."""

    number: int
    state: str  # complete, pruned, failed or interrupted
    score: float | None
    seconds: float  # without the activations, which all trials share
    parameters: int | None  # that were trained
    default: bool
    config: Mapping[str, Any]
    drawn: Mapping[str, Any]  # the sampled parameters, before depth and augmentation were snapped
    epochs: Sequence[Mapping[str, float]]  # number, loss, score, accuracy, seconds
    best_epoch: int | None
    failure: str
    cut: str | None = None  # the block of the backbone below which everything was frozen
    origin: str = ""  # the trial of an earlier study that the configuration is from
    costs: Mapping[str, float] = field(default_factory=dict)  # of its model, in a study with several objectives
    again: int | None = None  # of an interrupted trial, the one that tries its configuration again, if begun
    activation_seconds: float = 0.0  # spent on activations that no trial before it had needed


class Origin(Record):
    """The trial of an earlier study that a configuration is from."""

    study: str
    trial: int
    resplit: bool = False  # whether that study had another split of the same data set

    def __str__(self) -> str:
        return f"{self.study}, trial {self.trial}"


class WarmStart(Origin):
    """A configuration of an earlier study as the space of this one has it: sampled parameters, and what they give."""

    params: dict[str, Any]
    config: dict[str, Any]


class BackboneTrials(Record):
    """How the trials with one of a study's backbones went."""

    name: str
    trials: int  # finished: complete or pruned
    default: float | None  # score of the default configuration
    score: float | None  # of the best complete trial
    best: int | None  # its number
    seconds: float  # of all its trials, without the activations
    activation_seconds: float
    parameters: int | None = None  # of the backbone


class FrontPoint(Record):
    """A trial of the Pareto front: no other one is better in one objective without being worse in another."""

    number: int
    score: float  # on the validation pictures
    costs: dict[str, float]


def find_front(trials: Sequence[TrialRecord], goals: Goals) -> list[FrontPoint]:
    """The Pareto front of the complete trials that are within the limits, by the first cost."""
    known = [trial for trial in trials if trial.state == "complete" and trial.costs and goals.allow(trial.costs)]
    points = [FrontPoint(number=each.number, score=each.score or 0.0, costs=dict(each.costs)) for each in known]
    return [points[i] for i in pareto_front([(each.score, *each.costs.values()) for each in points])]


class Opening(Record):
    """An evaluation of final models on test pictures."""

    study: str
    trials: tuple[int, ...]  # whose mean was evaluated; the default's is evaluated beside it
    when: str | None = None  # ISO 8601, UTC; None: not noted by an earlier version


STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


def record(trial: "FrozenTrial") -> TrialRecord:
    """The record of a trial that has ended."""
    attrs = read_attrs(trial)
    reported = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
    return TrialRecord(
        number=trial.number,
        state=STATES[trial.state.name],
        score=trial_score(trial) if trial.state.name == "COMPLETE" else reported[-1] if reported else None,
        seconds=max(trial_seconds(trial) - (attrs.activation_seconds or 0.0), 0.0),
        parameters=attrs.trainable_parameters,
        default=attrs.default,
        config=attrs.config,
        drawn=trial.params,
        epochs=attrs.history,
        best_epoch=attrs.best_epoch,
        failure=attrs.failure,
        cut=attrs.cut,
        origin=attrs.origin,
        costs=attrs.costs,
        activation_seconds=attrs.activation_seconds or 0.0,
    )


def render_interruption(number: int, reason: str, again: int | None) -> str:
    """How an interrupted trial ended and goes on: `trial 3 was interrupted (worker lost), tried again as trial 5`."""
    how = "" if reason == "interrupted" else f" ({reason})"
    rest = "to be tried again" if again is None else f"tried again as trial {again}"
    return f"trial {number} was interrupted{how}, {rest}"
