"""The search as plain values: every trial that has ended, and which parameters mattered."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wastetune.storage.records import TELLING, TrialRecord, ended, record
from wastetune.storage.retry import with_retries
from wastetune.storage.study import read_trials

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution


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
    trials = ended(study)
    ranges = {key: drawn for trial in trials for key, drawn in trial.distributions.items()}
    return History(
        tuple(record(trial) for trial in trials),
        {key: _searched(drawn) for key, drawn in ranges.items()},
        rank_parameters(study),
    )


def rank_parameters(study: "optuna.Study") -> dict[str, float]:
    """Parameter -> its importance by Optuna's default, PED-ANOVA, highest first; empty where too few trials tell.

    The shares add up to 1.
    """
    from optuna.importance import get_param_importances

    if sum(trial.state.name == "COMPLETE" for trial in read_trials(study)) < TELLING:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of few trials, and so does the page
        try:
            found = with_retries(lambda: get_param_importances(study))
        except (ValueError, RuntimeError):  # nothing was searched
            return {}
    # Where it cannot tell, all shares are equal.
    shares = {key: float(share) for key, share in found.items()}
    return shares if len(shares) == 1 or max(shares.values(), default=0) > min(shares.values(), default=0) else {}


def _searched(drawn: "BaseDistribution") -> Searched:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(drawn, CategoricalDistribution):
        return Searched(options=tuple(drawn.choices))
    return Searched(log=bool(getattr(drawn, "log", False)), whole=isinstance(drawn, IntDistribution))
