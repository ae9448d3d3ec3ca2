"""What to try next, and what is not worth going on with: Optuna's sampler and pruner over trials in memory.

Nothing here reads or writes the study's database: trials go in, a proposal or a verdict comes out. So a trial enters
the database once, whole, instead of parameter by parameter, and a repetition never does.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wastetune.search.pruner import PRUNING_STARTUP
from wastetune.training.config import TrialConfig

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial, FrozenTrial

# A trial becomes the configuration that it stands for.
Resolve = Callable[["BaseTrial"], TrialConfig]

# Random trials before the sampler has enough to learn from.
_STARTUP_TRIALS = 8


@dataclass(frozen=True)
class Proposal:
    """A configuration, and the searched parameters that it came from."""

    config: TrialConfig
    params: dict[str, Any]
    distributions: "dict[str, BaseDistribution]"


@dataclass(frozen=True)
class InMemoryStudy:
    """The trials so far as a study in memory: `seen` numbers those that have ended and are in it."""

    study: "optuna.Study"
    seen: set[int]


def open_in_memory_study(*, epochs: int) -> InMemoryStudy:
    """An empty memory, for trials of up to so many epochs."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a study in memory is nobody's news
    # A deep tail starts slower than a head alone, and is worth waiting for.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=PRUNING_STARTUP, n_warmup_steps=epochs // 3)
    return InMemoryStudy(optuna.create_study(direction="maximize", pruner=pruner), set())


def propose(memory: InMemoryStudy, trials: "Iterable[FrozenTrial]", resolve: Resolve, *, seed: int) -> Proposal:
    """What the sampler would try after these trials."""
    import optuna
    from optuna.exceptions import ExperimentalWarning

    running = _remember(memory, trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `group`, for years
        memory.study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=_STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
        )
    proposal = _ask(memory, resolve)
    _forget(memory, running)
    return proposal


def _remember(memory: InMemoryStudy, trials: "Iterable[FrozenTrial]") -> list[int]:
    """Takes in what has ended since, and what is running; gives the numbers that the running ones have in memory."""
    running = []
    for trial in trials:
        if trial.number in memory.seen or trial.state.name not in ("COMPLETE", "PRUNED", "RUNNING"):
            continue
        memory.study.add_trial(_outline(trial))
        if trial.state.name == "RUNNING":
            running.append(len(memory.study.get_trials(deepcopy=False)) - 1)
        else:
            memory.seen.add(trial.number)
    return running


def _outline(trial: "FrozenTrial") -> "FrozenTrial":
    """The part of a trial that the sampler and the pruner look at."""
    from optuna.trial import create_trial

    return create_trial(
        state=trial.state,
        value=trial.value,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
    )


def _forget(memory: InMemoryStudy, numbers: Iterable[int]) -> None:
    """Takes running trials out of the sampler's sight: they come back as what they will have come to."""
    from optuna.trial import TrialState

    for number in numbers:
        memory.study.tell(number, state=TrialState.FAIL)


def _ask(memory: InMemoryStudy, resolve: Resolve) -> Proposal:
    trial = memory.study.ask()
    proposal = _proposal(trial, resolve)
    _forget(memory, [trial.number])
    return proposal


def propose_at_random(memory: InMemoryStudy, resolve: Resolve, *, seed: int) -> Proposal:
    """Any point of the space: what to try where the sampler only repeats itself."""
    from optuna.samplers import RandomSampler

    memory.study.sampler = RandomSampler(seed=seed)
    return _ask(memory, resolve)


def propose_this(params: Mapping[str, Any], resolve: Resolve) -> Proposal:
    """These searched parameters."""
    from optuna.trial import FixedTrial

    return _proposal(FixedTrial(dict(params)), resolve)


def _proposal(trial: "BaseTrial", resolve: Resolve) -> Proposal:
    config = resolve(trial)
    return Proposal(config, dict(trial.params), dict(trial.distributions))
