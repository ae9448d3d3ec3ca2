"""The sampler and the pruner that a study's file names: checked, rendered, built, and the trials that they work on.

A name, or a table with a class of Optuna's and its arguments. What a sampler or a pruner notes with a trial (Optuna's
system attributes: a generation of CMA-ES, a rung of successive halving) is stored with the trial, so that every
worker's copy has it; what it notes with the study is not.
"""

import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from wastetune.errors import UserError, did_you_mean, first_line, install_command
from wastetune.evaluation.objectives import SCORE_ALONE, Goals
from wastetune.search.toml_file import in_toml
from wastetune.storage.records import read_attrs, trial_score

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

# A name, or a table with the key `class` and arguments.
Named = str | dict[str, Any]

TPE, GRID, QMC, MEDIAN = "tpe", "grid", "qmc", "median"
CONSTRAINTS = "constraints"  # Optuna's prefix of the system attributes that hold them
NAMES = {
    "sampler": (TPE, "gp", "cmaes", "random", QMC, GRID),
    "pruner": (MEDIAN, "percentile", "successive_halving", "hyperband", "none"),
}
_EXAMPLES = {
    "sampler": '{ class = "optuna.samplers.NSGAIISampler", population_size = 20 }',
    "pruner": '{ class = "percentile", percentile = 50.0 }',
}
# A study's file is data: it must not import or call whatever is installed.
_PACKAGES = ("optuna.", "optuna_integration.")
# Class -> the package that it needs, and the extra that brings it.
_NEEDS = {"GPSampler": ("torch", "gp"), "CmaEsSampler": ("cmaes", "cmaes")}
_FOLDS = (
    "compares the scores of folds, and a trial has one split, whose epochs are no sample; choose one of "
    f"{', '.join(map(in_toml, NAMES['pruner']))}"
)
_LEFT_OUT = ("artifacts:", f"{CONSTRAINTS}:")  # of a trial's system attributes
# The end of a name -> why it is not offered.
_REFUSED = {
    "QMCSampler": 'keeps its place in the study; write sampler = "qmc"',
    "GridSampler": 'keeps its place in the study; write sampler = "grid"',
    "WilcoxonPruner": _FOLDS,
    "wilcoxon": _FOLDS,
}


def read_choice(key: str, value: object) -> Named:
    """The value of the key `sampler` or `pruner` of a study's file; a table without arguments is its name alone.

    ValueError, with a sentence, for what is neither a name nor a table with a class of Optuna's.
    """
    table = value if isinstance(value, dict) else {"class": value}
    name, told = table.get("class"), f"{key} = {in_toml(value)}"
    if not isinstance(name, str) or not (name in NAMES[key] or name.startswith(_PACKAGES) or name in _REFUSED):
        meant = did_you_mean(name, NAMES[key]) if isinstance(name, str) else ""
        raise ValueError(
            f"{told}, but it must be one of {', '.join(map(in_toml, NAMES[key]))}, or a table with a class of Optuna's "
            f"and its arguments, such as {_EXAMPLES[key]}{f'; {meant}' if meant else '.'}"
        )
    if reason := _REFUSED.get(name.rpartition(".")[2]):
        raise ValueError(f"{told}: {name} {reason}.")
    if name in (GRID, QMC):
        _check_points(told, name, table)
    return name if table.keys() == {"class"} else dict(table)


def _check_points(told: str, name: str, table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        if key == "points" and name == GRID:
            if not (isinstance(value, int) and not isinstance(value, bool) and 2 <= value <= 100):
                raise ValueError(f"{told}: points must be a whole number, at least 2 and at most 100.")
        elif key != "class":
            raise ValueError(f"{told}: {name} has {'only the argument points' if name == GRID else 'no arguments'}.")


def name_of(choice: Named) -> str:
    """The name, or the path of the class."""
    return choice if isinstance(choice, str) else str(choice["class"])


def render_choice(choice: Named) -> str:
    """A sampler or pruner in a few words: `tpe`, or `optuna.samplers.NSGAIISampler(population_size=20)`."""
    if isinstance(choice, str):
        return choice
    given = (f"{key}={_render_argument(choice[key])}" for key in sorted(choice) if key != "class")
    return f"{choice['class']}({', '.join(given)})"


def _render_argument(value: Any) -> str:
    return render_choice(value) if _is_object(value) else in_toml(value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("class"), str)


def describe_search(values: Mapping[str, Any]) -> str:
    """`sampler random, pruner none`: of the two those that are there, because a study tells what is not the default."""
    return ", ".join(f"{key} {values[key]}" for key in NAMES if key in values)


def build(key: str, choice: Named, path: str, usual: Mapping[str, Any], offered: Mapping[str, Any]) -> Any:
    """An instance of the class at `path`: with the `usual` arguments, those `offered` that it takes, and the table's.

    UserError, with a sentence, where a package is missing or the class does not take these arguments.
    """
    kind = _find_class(key, path)
    package, extra = _NEEDS.get(kind.__name__, (None, None))
    if package and find_spec(package) is None:
        raise UserError(
            f"{key} = {in_toml(choice)} needs the package {package}, which is not installed; {install_command(extra)}"
        )
    given = {} if isinstance(choice, str) else {name: value for name, value in choice.items() if name != "class"}
    if "seed" in given:  # the same in each proposal
        raise UserError(f"{key} = {in_toml(choice)}: leave out seed; the study's own is used")
    taken = {name: value for name, value in offered.items() if name in inspect.signature(kind).parameters}
    with explained(key, choice):
        return kind(
            **{
                name: build(key, value, value["class"], {}, offered) if _is_object(value) else value
                for name, value in {**usual, **taken, **given}.items()
            }
        )


def _find_class(key: str, path: str) -> type:
    module, _, name = path.rpartition(".")
    found = None
    if path.startswith(_PACKAGES):
        try:
            found = getattr(import_module(module), name, None)
        except ImportError as error:
            raise UserError(f"{key}: {path} cannot be imported: {first_line(error)}") from error
    if not (isinstance(found, type) and found.__module__.startswith(_PACKAGES)):
        raise UserError(f"{key}: Optuna has no class {path}; one that it has: {_EXAMPLES[key]}")
    return found


@contextmanager
def explained(key: str, choice: Named) -> Iterator[None]:
    """Turns whatever a sampler or pruner raises into a sentence, and hides its warnings, such as of experiments."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error, most=300)}"
            raise UserError(f"{key} = {render_choice(choice)} does not work here ({reason})") from error


Direction = Literal["maximize", "minimize"]


def directions_of(goals: Goals) -> tuple[Direction, ...]:
    """The directions of a study's objectives: the score is maximised, costs are minimised."""
    costs: list[Direction] = ["minimize"] * len(goals.costs)
    return ("maximize", *costs)


def copy_trials(trials: "Sequence[FrozenTrial]", name: str, goals: Goals = SCORE_ALONE) -> "optuna.Study":
    """A study in memory with all trials under their numbers, and with what was noted with them."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # Optuna would report every study in memory
    study = optuna.create_study(study_name=name, directions=directions_of(goals))
    worst = lowest_score(trials)
    for trial in trials:
        study.add_trial(outline(trial, goals, worst))
    return study


def lowest_score(trials: "Iterable[FrozenTrial]") -> float:
    """The lowest score of the complete trials; 0 where there is none."""
    scores = (trial_score(trial) for trial in trials if trial.state.name == "COMPLETE")
    return min((score for score in scores if score is not None), default=0.0)


def outline(trial: "FrozenTrial", goals: Goals = SCORE_ALONE, worst: float = 0.0) -> "FrozenTrial":
    """The part of a trial that samplers and pruners use.

    Its constraints are how far its costs are from the limits of now. A trial that was not trained, because it is above
    one, has the score `worst`, so that samplers that learn from complete trials alone learn from its costs, too.
    """
    from optuna.trial import TrialState, create_trial

    state, values = trial.state, trial.values
    costs = read_attrs(trial).costs
    if goals.costs and state is TrialState.PRUNED and costs and not goals.allow(costs):
        state, values = TrialState.COMPLETE, [worst, *(costs[key] for key in goals.costs)]
    return create_trial(
        state=TrialState.FAIL if state is TrialState.WAITING else state,  # or `ask` would take it
        values=values,
        constraints=goals.excess(costs) or None,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
        system_attrs={key: value for key, value in trial.system_attrs.items() if not key.startswith(_LEFT_OUT)},
    )
