"""A trial as a frozen record, with its attributes decoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wastetune.storage.budget import is_void
from wastetune.storage.study import read_trials

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
TELLING = 4  # complete trials; with fewer, an importance is a matter of luck


@dataclass(frozen=True)
class TrialRecord:
    """One trial. Its score is that of the epoch that counts; of a pruned one the last that was told, if any."""

    number: int
    state: str  # complete, pruned or failed
    score: float | None
    seconds: float  # without the activations, which all trials share
    parameters: int | None  # that were trained
    default: bool
    config: Mapping[str, Any]
    drawn: Mapping[str, Any]  # what the search chose, before it was snapped to what can act
    epochs: Sequence[Mapping[str, float]]  # number, loss, score, accuracy, seconds
    best_epoch: int | None
    failure: str
    cut: str | None = None  # what was frozen: all below this block


def read_records(study: "optuna.Study") -> tuple[TrialRecord, ...]:
    """Its trials alone, by number."""
    return tuple(record(trial) for trial in ended(study))


def ended(study: "optuna.Study") -> "list[FrozenTrial]":
    """The trials that ran and have ended, by number."""
    return [trial for trial in read_trials(study) if trial.state.name in _STATES and not is_void(trial)]


def record(trial: "FrozenTrial") -> TrialRecord:
    """The record of a trial that has ended."""
    attrs = trial.user_attrs
    told = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
    spent = trial.duration.total_seconds() if trial.duration else 0.0
    return TrialRecord(
        number=trial.number,
        state=_STATES[trial.state.name],
        score=trial.value if trial.state.name == "COMPLETE" else told[-1] if told else None,
        seconds=max(spent - attrs.get("activation_seconds", 0.0), 0.0),
        parameters=attrs.get("trainable_parameters"),
        default=bool(attrs.get("default")),
        config=attrs.get("config", {}),
        drawn=trial.params,
        epochs=attrs.get("history", ()),
        best_epoch=attrs.get("best_epoch"),
        failure=attrs.get("failure", ""),
        cut=attrs.get("cut"),
    )
