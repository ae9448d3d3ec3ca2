"""What to try next, and what is not worth going on with: Optuna's sampler and pruner over trials in memory.

Nothing here reads or writes the study's database: trials go in, a proposal or a verdict comes out. So a trial enters
the database once, whole, instead of parameter by parameter, and a repetition never does.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wastetune.space import TrialConfig

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial, FrozenTrial

# A trial becomes the configuration that it stands for.
Resolve = Callable[["BaseTrial"], TrialConfig]

# Random trials before the sampler has enough to learn from.
_STARTUP_TRIALS = 8
# Complete trials before there is a median worth pruning by.
_PRUNING_STARTUP = 5
# A trial is looked at so many times on its way. A look costs a write; more of them prune no better.
_LOOKS = 8


@dataclass(frozen=True)
class Proposal:
    """A configuration, and the searched parameters that it came from."""

    config: TrialConfig
    params: dict[str, Any]
    distributions: "dict[str, BaseDistribution]"


def remember(trials: "Iterable[FrozenTrial]", *, epochs: int, seed: int) -> "optuna.Study":
    """The trials that teach something as a study in memory, with the sampler and pruner of wastetune."""
    import optuna
    from optuna.exceptions import ExperimentalWarning
    from optuna.trial import TrialState, create_trial

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `group`, for years
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=_STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
        )
    # A deep tail starts slower than a head alone, and is worth waiting for.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_PRUNING_STARTUP, n_warmup_steps=epochs // 3)
    memory = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    memory.add_trials(
        create_trial(
            state=trial.state,
            value=trial.value,
            params=trial.params,
            distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
        )
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    )
    return memory


def propose(memory: "optuna.Study", resolve: Resolve) -> Proposal:
    """What the sampler would try next."""
    return _proposal(memory.ask(), resolve)


def propose_at_random(memory: "optuna.Study", resolve: Resolve, *, seed: int) -> Proposal:
    """Any point of the space: what to try where the sampler only repeats itself."""
    from optuna.samplers import RandomSampler

    memory.sampler = RandomSampler(seed=seed)
    return _proposal(memory.ask(), resolve)


def propose_this(params: Mapping[str, Any], resolve: Resolve) -> Proposal:
    """These searched parameters."""
    from optuna.trial import FixedTrial

    return _proposal(FixedTrial(dict(params)), resolve)


def is_looked_at(epoch: int, epochs: int) -> bool:
    """Whether a trial of so many epochs is told, and may be pruned, after this one."""
    return epoch % max(1, epochs // _LOOKS) == 0


def is_hopeless(memory: "optuna.Study", scores: Mapping[int, float]) -> bool:
    """Whether a trial with these scores (by epoch) stays below the median of the complete ones."""
    from optuna.trial import TrialState, create_trial

    trial = create_trial(state=TrialState.RUNNING, intermediate_values=dict(scores))
    return memory.pruner.prune(memory, trial)


def _proposal(trial: "BaseTrial", resolve: Resolve) -> Proposal:
    config = resolve(trial)
    return Proposal(config, dict(trial.params), dict(trial.distributions))
