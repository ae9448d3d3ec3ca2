"""The search as plain values: every trial that has ended, and which parameters mattered."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wastetune.patience import patiently
from wastetune.storage import is_void, read_trials

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
_TELLING = 4  # complete trials; with fewer, an importance is a matter of luck


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


@dataclass(frozen=True)
class Searched:
    """What a parameter was drawn from: a range, or options."""

    log: bool = False
    whole: bool = False
    options: tuple[Any, ...] = ()


@dataclass(frozen=True)
class History:
    """A search: its trials by number, what was searched, and the share of each parameter in what made scores differ."""

    trials: tuple[TrialRecord, ...]
    searched: Mapping[str, Searched]
    importance: Mapping[str, float]


def read_history(study: "optuna.Study") -> History:
    """The search so far."""
    trials = _ended(study)
    ranges = {key: drawn for trial in trials for key, drawn in trial.distributions.items()}
    return History(
        tuple(_record(trial) for trial in trials),
        {key: _searched(drawn) for key, drawn in ranges.items()},
        rank_parameters(study),
    )


def read_records(study: "optuna.Study") -> tuple[TrialRecord, ...]:
    """Its trials alone, by number."""
    return tuple(_record(trial) for trial in _ended(study))


def rank_parameters(study: "optuna.Study") -> dict[str, float]:
    """Parameter -> its importance by Optuna's default, PED-ANOVA, highest first; empty where too few trials tell.

    The shares add up to 1.
    """
    from optuna.importance import get_param_importances

    if sum(trial.state.name == "COMPLETE" for trial in read_trials(study)) < _TELLING:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of few trials, and so does the page
        try:
            found = patiently(lambda: get_param_importances(study))
        except (ValueError, RuntimeError):  # nothing was searched
            return {}
    # Where it cannot tell, all shares are equal.
    shares = {key: float(share) for key, share in found.items()}
    return shares if len(shares) == 1 or max(shares.values(), default=0) > min(shares.values(), default=0) else {}


def _ended(study: "optuna.Study") -> "list[FrozenTrial]":
    return [trial for trial in read_trials(study) if trial.state.name in _STATES and not is_void(trial)]


def _record(trial: "FrozenTrial") -> TrialRecord:
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


def _searched(drawn: "BaseDistribution") -> Searched:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(drawn, CategoricalDistribution):
        return Searched(options=tuple(drawn.choices))
    return Searched(log=bool(getattr(drawn, "log", False)), whole=isinstance(drawn, IntDistribution))
