"""What to try next: a sampler, usually Optuna's TPE, over a copy of the trials in memory.

Nothing here reads or writes the study's database: trials go in, a proposal comes out. So a trial is created in the
database in one transaction instead of parameter by parameter, and a proposal that repeats another trial never is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from wastetune.errors import UserError
from wastetune.evaluation.objectives import SCORE_ALONE, Goals
from wastetune.search.choice import (
    GRID,
    MEDIAN,
    QMC,
    TPE,
    Direction,
    Named,
    build,
    copy_trials,
    describe_search,
    directions_of,
    explained,
    lowest_score,
    name_of,
    outline,
    render_choice,
)
from wastetune.search.distributions import Choice, Fixed
from wastetune.search.points import grid_limit, grid_points, make_grid
from wastetune.search.pruner import build_pruner, open_pruning
from wastetune.search.space import SearchSpace, bounds, sample

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import BaseTrial, FrozenTrial

C = TypeVar("C")  # a configuration
# Optuna trial -> the configuration that it samples.
Resolve = Callable[["BaseTrial"], C]

# Random trials before the sampler has enough to learn from.
_STARTUP_TRIALS = 8
# Samplers that model only keys that all trials have.
_UNCONDITIONAL = ("GPSampler", "CmaEsSampler", "NSGAIISampler", "NSGAIIISampler")


@dataclass(frozen=True)
class Proposal(Generic[C]):
    """A configuration, and the sampled parameters that it was made from."""

    config: C
    params: dict[str, Any]
    distributions: "dict[str, BaseDistribution]"
    notes: Mapping[str, Any] = field(default_factory=dict)  # what the sampler noted with it, for its next ones


@dataclass(frozen=True)
class InMemoryStudy:
    """A copy of the trials as an Optuna study in memory; `seen` holds the numbers of the ended trials in it."""

    study: "optuna.Study"
    seen: set[int]
    goals: Goals = SCORE_ALONE


def open_in_memory_study(
    *, epochs: int = 1, directions: Sequence[Direction] = (), goals: Goals = SCORE_ALONE
) -> InMemoryStudy:
    """An empty study in memory, for trials of at most so many epochs; by default with the directions of the goals."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # Optuna would report every study in memory
    pruner = build_pruner(MEDIAN, epochs=epochs)
    study = optuna.create_study(directions=directions or directions_of(goals), pruner=pruner)
    return InMemoryStudy(study, set(), goals)


def copy_in_memory(trials: "Sequence[FrozenTrial]", *, epochs: int) -> InMemoryStudy:
    """These trials as they are now, of at most so many epochs, as a study in memory."""
    memory = open_in_memory_study(epochs=epochs)
    _remember(memory, trials)
    return memory


def build_sampler(choice: Named, *, seed: int) -> "BaseSampler":
    """A study's sampler, but for `grid` and `qmc`. UserError, with a sentence, where it cannot be built."""
    import optuna

    tpe = {"n_startup_trials": _STARTUP_TRIALS, "multivariate": True, "group": True, "constant_liar": True}
    named: dict[str, tuple[str, dict[str, Any]]] = {
        TPE: ("TPESampler", tpe),
        "gp": ("GPSampler", {}),
        "cmaes": ("CmaEsSampler", {}),
        "random": ("RandomSampler", {}),
    }
    kind, usual = named.get(name_of(choice), (None, {}))
    path = f"optuna.samplers.{kind}" if kind else name_of(choice)
    sampler = build("sampler", choice, path, usual, {"seed": seed, "warn_independent_sampling": False})
    if not isinstance(sampler, optuna.samplers.BaseSampler):
        raise UserError(f"sampler = {render_choice(choice)}: that class is no sampler")
    return sampler


def propose(memory: InMemoryStudy, trials: "Sequence[FrozenTrial]", resolve: Resolve[C], *, seed: int) -> Proposal[C]:
    """TPE's proposal after these trials."""
    running = _remember(memory, trials)
    memory.study.sampler = build_sampler(TPE, seed=seed)
    proposal = _ask(memory, resolve)
    _forget(memory, running)
    return proposal


def propose_by(
    choice: Named,
    space: SearchSpace,
    trials: "Sequence[FrozenTrial]",
    resolve: Resolve[C],
    *,
    name: str,
    seed: int,
    goals: Goals = SCORE_ALONE,
) -> Proposal[C]:
    """The proposal of any sampler but `grid` and `qmc`, after all trials of the study of this name, by number.

    UserError, with a sentence, for whatever the sampler raises.
    """
    from optuna.samplers import TPESampler

    sampler, study = build_sampler(choice, seed=seed), copy_trials(trials, name, goals)
    if not isinstance(sampler, TPESampler):
        # They model the keys that all trials so far have. Once such a key is missing, as one under a condition may be,
        # CMA-ES draws at random for ever.
        inner, always = sampler.infer_relative_search_space, _always_searched(space)
        sampler.infer_relative_search_space = lambda study, trial: {  # type: ignore[method-assign]
            key: drawn for key, drawn in inner(study, trial).items() if key in always
        }
    study.sampler = sampler
    with explained("sampler", choice):
        trial = study.ask()
        proposal = _proposal(trial, resolve)
    return replace(proposal, notes=study.get_trials(deepcopy=False)[trial.number].system_attrs)


def check_search(
    sampler: Named, pruner: Named, space: SearchSpace, *, trials: int | None, goals: Goals = SCORE_ALONE
) -> list[str]:
    """Raises UserError where sampler or pruner cannot do what is asked; gives sentences on what is not the default.

    trials: how many the study asks for; None where that is not known, as in a worker.
    """
    if (sampler, pruner) == (TPE, MEDIAN):
        return []
    open_pruning(pruner, (), epochs=int(bounds(space, "epochs")[1]), name="", number=0, note=lambda *_: None)(1, 0.5)
    told = {"sampler": sampler, "pruner": pruner}
    lines = [describe_search({key: render_choice(each) for key, each in told.items() if each not in (TPE, MEDIAN)})]
    if name_of(sampler) == GRID:
        lines.append(_check_grid(space, grid_points(sampler), trials))
    elif name_of(sampler) != QMC:
        propose_by(sampler, space, (), lambda trial: sample(space, trial), name="", seed=0)
        _check_objectives(sampler, space, goals)
        lines.append(_check_keys(sampler, space))
    return [line for line in lines if line]


def _check_objectives(sampler: Named, space: SearchSpace, goals: Goals) -> None:
    """UserError where the sampler works for one objective alone, as it says itself when it is asked."""
    if not goals.costs:
        return
    try:
        propose_by(sampler, space, (), lambda trial: sample(space, trial), name="", seed=0, goals=goals)
    except UserError as error:
        raise UserError(
            f"sampler = {render_choice(sampler)} cannot search several objectives; choose tpe, gp, random, qmc, grid, "
            "or optuna.samplers.NSGAIISampler"
        ) from error


def _check_grid(space: SearchSpace, points: int, trials: int | None) -> str:
    size, most = len(make_grid(space, points)), grid_limit(space, points)
    if trials is not None and trials > most:
        raise UserError(
            f"the grid of {space.source} and the default are {most:,} configurations, and the study has {trials:,} "
            f"trials; ask for --trials {most}, give more points, or widen the space"
        )
    rest = f", of which {trials:,} trials try a part in random order" if trials is not None and trials < most else ""
    return f"  the grid has {size:,} configurations{rest}"


def _check_keys(sampler: Named, space: SearchSpace) -> str:
    """Which keys the sampler draws at random, whatever it has seen."""
    name = name_of(sampler)
    kind = {"gp": "GPSampler", "cmaes": "CmaEsSampler"}.get(name, name.rpartition(".")[2])
    if kind not in _UNCONDITIONAL:
        return ""
    searched = {key: param for key, param in space.params if not isinstance(param, Fixed)}
    learned = {
        key
        for key in _always_searched(space) & searched.keys()
        if kind != "CmaEsSampler" or not isinstance(searched[key], Choice)
    }
    if searched and not learned:
        raise UserError(
            f"sampler = {render_choice(sampler)} would draw every key of {space.source} at random: it learns "
            f"{'numbers' if kind == 'CmaEsSampler' else 'keys'} without a condition only; choose another sampler"
        )
    chance = ", ".join(key for key in searched if key not in learned)
    return f"  drawn at random, because this sampler cannot learn them: {chance}" if chance else ""


def _always_searched(space: SearchSpace) -> set[str]:
    """The keys that every trial has."""
    return {key for key, param in space.params if param.when is None}


def _remember(memory: InMemoryStudy, trials: "Sequence[FrozenTrial]") -> list[int]:
    """Adds trials that ended since the last call, and running ones; gives the numbers of the running ones in memory."""
    running = []
    worst = lowest_score(trials)
    for trial in trials:
        if trial.number in memory.seen or trial.state.name not in ("COMPLETE", "PRUNED", "RUNNING"):
            continue
        memory.study.add_trial(outline(trial, memory.goals, worst))
        if trial.state.name == "RUNNING":
            running.append(len(memory.study.get_trials(deepcopy=False)) - 1)
        else:
            memory.seen.add(trial.number)
    return running


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
