"""The search as plain values: every trial that has ended, and the importance of each parameter."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wastetune.search.choice import Direction
from wastetune.seeding import seed_for
from wastetune.storage.budget import only_finished
from wastetune.storage.records import BackboneTrials, TrialRecord, read_attrs, trial_score, trial_seconds
from wastetune.storage.retry import with_retries
from wastetune.storage.study import read_trials, records_of
from wastetune.training.config import BACKBONE

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


# Of the complete trials, for the spread of the importances; of more trials they are firm, and it takes seconds.
_RESAMPLES = 30
_MOST_RESAMPLED = 200
# Complete trials. PED-ANOVA compares the best tenth with all: of ten trials that is one, and where scores were mere
# noise it then gave the same parameter 93 to 98 %, with a narrow range, whatever the seed.
ENOUGH_TRIALS = 20


@dataclass(frozen=True)
class Searched:
    """The distribution of a parameter: a range, or options."""

    log: bool = False
    whole: bool = False
    options: tuple[Any, ...] = ()


@dataclass(frozen=True)
class History:
    """A search: its trials by number, the distributions, and the importance of each parameter; importances sum to 1.

    The spread of an importance is the range that holds nine of ten of its values over trials drawn again.
    """

    trials: tuple[TrialRecord, ...]
    searched: Mapping[str, Searched]
    importance: Mapping[str, float]
    importance_spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def read_history(study: "optuna.Study") -> History:
    """The search so far."""
    trials = read_trials(study)
    ranges = {key: drawn for trial in trials for key, drawn in trial.distributions.items()}
    importance = rank_parameters(study)
    return History(
        records_of(trials),
        {key: _searched(drawn) for key, drawn in ranges.items()},
        importance,
        _importance_spread(trials, importance),
    )


def divide_trials(trials: "Sequence[FrozenTrial]") -> tuple[BackboneTrials, ...]:
    """How the trials are divided among several backbones, in the order of the study; empty where there is one."""
    names = dict.fromkeys(name for trial in trials if (name := read_attrs(trial).config.get(BACKBONE)))
    return tuple(
        _backbone_trials(name, [each for each in trials if read_attrs(each).config.get(BACKBONE) == name])
        for name in names
    )


def _backbone_trials(name: str, trials: "Sequence[FrozenTrial]") -> BackboneTrials:
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    best = max(complete, key=lambda trial: (trial_score(trial) or 0.0, -trial.number), default=None)
    activations = sum(read_attrs(trial).activation_seconds or 0.0 for trial in trials)
    return BackboneTrials(
        name=name,
        trials=len(only_finished(trials)),
        default=next((trial_score(trial) for trial in complete if read_attrs(trial).default), None),
        score=trial_score(best) if best else None,
        best=best.number if best else None,
        seconds=round(sum(map(trial_seconds, trials)) - activations, 2),
        activation_seconds=round(activations, 2),
    )


def rank_parameters(study: "optuna.Study") -> dict[str, float]:
    """Parameter -> its importance by Optuna's default, PED-ANOVA, highest first; empty with too few trials.

    With several objectives, it is the importance for reaching the Pareto front. The importances sum to 1.
    """
    from optuna.importance import get_param_importances

    if sum(trial.state.name == "COMPLETE" for trial in read_trials(study)) < ENOUGH_TRIALS:
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


def _importance_spread(
    trials: "Sequence[FrozenTrial]", importance: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Parameter -> the range of its importance over bootstrap samples of the complete trials, from 5 to 95 %."""
    import optuna

    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not importance or len(complete) > _MOST_RESAMPLED:
        return {}
    rng = np.random.default_rng(seed_for("importance", len(complete)))
    sample: list[FrozenTrial] = []

    class Resampled(optuna.Study):  # to store the trials anew, each time, takes longer than to rank the parameters
        def get_trials(self, *_: Any, **__: Any) -> "list[FrozenTrial]":
            return sample

    storage = optuna.storages.InMemoryStorage()
    directions: list[Direction] = ["minimize"] * len(complete[0].values)
    directions[0] = "maximize"
    study = Resampled(optuna.create_study(storage=storage, directions=directions).study_name, storage)
    found: dict[str, list[float]] = {}
    for _ in range(_RESAMPLES):
        sample[:] = [complete[i] for i in rng.integers(0, len(complete), len(complete))]
        for key, share in rank_parameters(study).items():
            found.setdefault(key, []).append(share)
    return {
        key: (min(low, importance[key]), max(high, importance[key]))
        for key in importance.keys() & found.keys()
        for low, high in [np.quantile(found[key], (0.05, 0.95)).tolist()]
    }


def _searched(drawn: "BaseDistribution") -> Searched:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(drawn, CategoricalDistribution):
        return Searched(options=tuple(drawn.choices))
    return Searched(log=bool(getattr(drawn, "log", False)), whole=isinstance(drawn, IntDistribution))
