"""Pruning: after which epochs a trial reports its score, and when it is stopped."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wastetune.errors import UserError
from wastetune.search.choice import MEDIAN, Named, build, copy_trials, explained, name_of, render_choice

if TYPE_CHECKING:
    import optuna
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial

# Complete trials before there is a median worth pruning by.
_STARTUP_TRIALS = 5
# So many scores of a trial are reported. Each report costs a write.
_REPORTS = 8


def is_reported(epoch: int, epochs: int) -> bool:
    """Whether a trial of so many epochs reports its score, and may be pruned, after this epoch."""
    return epoch % max(1, epochs // _REPORTS) == 0


def is_hopeless(study: "optuna.Study", scores: Mapping[int, float]) -> bool:
    """Whether a trial with these scores (by epoch) stays below the median of the study's complete trials."""
    from optuna.trial import TrialState, create_trial

    trial = create_trial(state=TrialState.RUNNING, intermediate_values=dict(scores))
    return bool(study.pruner.prune(study, trial))


def build_pruner(choice: Named, *, epochs: int) -> "BasePruner":
    """A study's pruner, for trials of at most so many epochs. UserError, with a sentence, where it cannot be built."""
    import optuna

    first = next(epoch for epoch in range(1, epochs + 1) if is_reported(epoch, epochs))
    # A deep tail starts slower than a head alone, and needs some epochs to overtake it.
    late: dict[str, Any] = {"n_startup_trials": _STARTUP_TRIALS, "n_warmup_steps": epochs // 3}
    halving: dict[str, Any] = {"min_resource": first, "reduction_factor": 3}
    named: dict[str, tuple[str, dict[str, Any]]] = {
        MEDIAN: ("MedianPruner", late),
        "percentile": ("PercentilePruner", {"percentile": 25.0, **late}),
        "successive_halving": ("SuccessiveHalvingPruner", halving),
        "hyperband": ("HyperbandPruner", {**halving, "max_resource": epochs}),
        "none": ("NopPruner", {}),
    }
    kind, usual = named.get(name_of(choice), (None, {}))
    pruner = build("pruner", choice, f"optuna.pruners.{kind}" if kind else name_of(choice), usual, {})
    if not isinstance(pruner, optuna.pruners.BasePruner):
        raise UserError(f"pruner = {render_choice(choice)}: that class is no pruner")
    return pruner


def open_pruning(
    choice: Named, trials: "Sequence[FrozenTrial]", *, epochs: int, name: str, number: int, note: Callable[..., object]
) -> Callable[[int, float], bool]:
    """A function of an epoch and its score that says whether this trial is hopeless, by any pruner.

    trials: all trials of the study, by number, as they were when this one began; its own `number` and the study's
    `name` decide its bracket of Hyperband. `note` gets key and value of what the pruner notes with the trial.
    """
    from optuna.trial import TrialState, create_trial

    pruner, study = build_pruner(choice, epochs=epochs), copy_trials(trials[:number], name)
    for _ in range(len(trials), number):  # created since, by other workers
        study.add_trial(create_trial(state=TrialState.FAIL))
    study.add_trial(create_trial(state=TrialState.RUNNING))
    storage, identity = study._storage, study.get_trials(deepcopy=False)[-1]._trial_id

    def is_hopeless_now(epoch: int, score: float) -> bool:
        storage.set_trial_intermediate_value(identity, epoch, score)
        trial = storage.get_trial(identity)
        with explained("pruner", choice):
            hopeless = bool(pruner.prune(study, trial))
        for key, value in storage.get_trial_system_attrs(identity).items():
            if key not in trial.system_attrs:
                note(key, value)
        return hopeless

    return is_hopeless_now
