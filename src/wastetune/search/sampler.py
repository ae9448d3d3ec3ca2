"""What to try next: Optuna's TPE sampler over a copy of the trials in memory.

Nothing here reads or writes the study's database: trials go in, a proposal comes out. So a trial is created in the
database in one transaction instead of parameter by parameter, and a proposal that repeats another trial never is.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from wastetune.search.pruner import PRUNING_STARTUP

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial, FrozenTrial

C = TypeVar("C")  # a configuration
# Optuna trial -> the configuration that it samples.
Resolve = Callable[["BaseTrial"], C]

# Random trials before the sampler has enough to learn from.
_STARTUP_TRIALS = 8


@dataclass(frozen=True)
class Proposal(Generic[C]):
    """A configuration, and the sampled parameters that it was made from."""

    config: C
    params: dict[str, Any]
    distributions: "dict[str, BaseDistribution]"


@dataclass(frozen=True)
class InMemoryStudy:
    """A copy of the trials as an Optuna study in memory; `seen` holds the numbers of the ended trials in it."""

    study: "optuna.Study"
    seen: set[int]


def open_in_memory_study(*, epochs: int = 0, direction: Literal["maximize", "minimize"] = "maximize") -> InMemoryStudy:
    """An empty study in memory, for trials of at most so many epochs."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # Optuna would report every study in memory
    # A deep tail starts slower than a head alone, and needs some epochs to overtake it.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=PRUNING_STARTUP, n_warmup_steps=epochs // 3)
    return InMemoryStudy(optuna.create_study(direction=direction, pruner=pruner), set())


def propose(memory: InMemoryStudy, trials: "Iterable[FrozenTrial]", resolve: Resolve[C], *, seed: int) -> Proposal[C]:
    """The sampler's proposal after these trials."""
    import optuna
    from optuna.exceptions import ExperimentalWarning

    running = _remember(memory, trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `group` is experimental
        memory.study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=_STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
        )
    proposal = _ask(memory, resolve)
    _forget(memory, running)
    return proposal


def _remember(memory: InMemoryStudy, trials: "Iterable[FrozenTrial]") -> list[int]:
    """Adds trials that ended since the last call, and running ones; gives the numbers of the running ones in memory."""
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
    """The part of a trial that the sampler and the pruner use."""
    from optuna.trial import create_trial

    return create_trial(
        state=trial.state,
        value=trial.value,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
    )


def _forget(memory: InMemoryStudy, numbers: Iterable[int]) -> None:
    """Hides running trials from the sampler until they have ended."""
    from optuna.trial import TrialState

    for number in numbers:
        memory.study.tell(number, state=TrialState.FAIL)


def _ask(memory: InMemoryStudy, resolve: Resolve[C]) -> Proposal[C]:
    trial = memory.study.ask()
    proposal = _proposal(trial, resolve)
    _forget(memory, [trial.number])
    return proposal


def propose_at_random(memory: InMemoryStudy, resolve: Resolve[C], *, seed: int) -> Proposal[C]:
    """A random point of the space, for a sampler that repeats itself."""
    from optuna.samplers import RandomSampler

    memory.study.sampler = RandomSampler(seed=seed)
    return _ask(memory, resolve)


def propose_this(params: Mapping[str, Any], resolve: Resolve[C]) -> Proposal[C]:
    """The proposal with these sampled parameters."""
    from optuna.trial import FixedTrial

    return _proposal(FixedTrial(dict(params)), resolve)


def _proposal(trial: "BaseTrial", resolve: Resolve[C]) -> Proposal[C]:
    config = resolve(trial)
    return Proposal(config, dict(trial.params), dict(trial.distributions))
