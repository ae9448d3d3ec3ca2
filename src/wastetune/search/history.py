"""The search as plain values: every trial that has ended, and the importance of each parameter."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wastetune.storage.records import TrialRecord, record
from wastetune.storage.retry import with_retries
from wastetune.storage.study import ended_trials, read_trials

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution


_ENOUGH_TRIALS = 4  # complete trials; with fewer, an importance is a matter of luck


@dataclass(frozen=True)
class Searched:
    """The distribution of a parameter: a range, or options."""

    log: bool = False
    whole: bool = False
    options: tuple[Any, ...] = ()


@dataclass(frozen=True)
class History:
    """A search: its trials by number, the distributions, and the importance of each parameter; importances sum to 1."""

    trials: tuple[TrialRecord, ...]
    searched: Mapping[str, Searched]
    importance: Mapping[str, float]


def read_history(study: "optuna.Study") -> History:
    """The search so far."""
    trials = ended_trials(study)
    ranges = {key: drawn for trial in trials for key, drawn in trial.distributions.items()}
    return History(
        tuple(record(trial) for trial in trials),
        {key: _searched(drawn) for key, drawn in ranges.items()},
        rank_parameters(study),
    )


def rank_parameters(study: "optuna.Study") -> dict[str, float]:
    """Parameter -> its importance by Optuna's default, PED-ANOVA, highest first; empty with too few trials.

    The importances sum to 1.
    """
    from optuna.importance import get_param_importances

    if sum(trial.state.name == "COMPLETE" for trial in read_trials(study)) < _ENOUGH_TRIALS:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns of few trials; the page says so itself
        try:
            found = with_retries(lambda: get_param_importances(study))
        except (ValueError, RuntimeError):  # nothing was searched
            return {}
    # PED-ANOVA returns equal shares where it cannot tell parameters apart.
    shares = {key: float(share) for key, share in found.items()}
    return shares if len(shares) == 1 or max(shares.values(), default=0) > min(shares.values(), default=0) else {}


def _searched(drawn: "BaseDistribution") -> Searched:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(drawn, CategoricalDistribution):
        return Searched(options=tuple(drawn.choices))
    return Searched(log=bool(getattr(drawn, "log", False)), whole=isinstance(drawn, IntDistribution))
