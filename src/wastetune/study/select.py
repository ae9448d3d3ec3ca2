"""Selects the final model by predictions of validation pictures that it was not fitted on, and calibrates it."""

from collections.abc import Mapping, Sequence

from wastetune.backbones.cuts import TOP
from wastetune.console import Console
from wastetune.evaluation.calibration import fit_temperature, scale_probabilities
from wastetune.evaluation.conformal import fit_set_thresholds
from wastetune.evaluation.metrics import metric_value
from wastetune.evaluation.selective import fit_thresholds
from wastetune.report.results import FinalModel
from wastetune.seeding import seed_for
from wastetune.storage.records import TrialRecord
from wastetune.study.fits import FitTask, fit_each
from wastetune.study.members import Candidates, select_members
from wastetune.training.config import TrialConfig
from wastetune.training.learner import FloatArray
from wastetune.tuning.held_out import keep_fit, read_held_out
from wastetune.tuning.objective import tuning_sets
from wastetune.tuning.prepare import TrialContext, trial_seed


def select_final(context: TrialContext, candidates: Candidates, console: Console) -> FinalModel:
    """What the final model is made of, its temperature and its thresholds.

    Each candidate is fitted again on the training pictures alone, but for tails whose trial has done the same.
    TrainingFailed where one cannot be.
    """
    trials, labels, metric = candidates.trials, context.data.val.labels, context.spec.metric
    console.print(f"comparing {len(trials)} trials on validation pictures that they are not fitted on")
    held_out: dict[int, FloatArray] = {}
    tasks: dict[int, FitTask] = {}
    for trial in trials:
        config, number = TrialConfig.model_validate(trial.config), trial.number
        if trial.cut != TOP.name:
            kept = read_held_out(context, config, seed := trial_seed(context, number))
            if kept is not None:
                held_out[number] = kept
                continue
        else:
            seed = seed_for("fold", trial_seed(context, number), 0)
        train, val = tuning_sets(context, config, console.bar)
        tasks[number] = FitTask(config, train, val.activations, config.epochs, seed)
    fitted = fit_each(context, list(tasks.values()))
    for (number, task), (learner, predicted) in zip(tasks.items(), fitted, strict=True):
        held_out[number], score = predicted, metric_value(metric, labels, predicted)
        keep_fit(context, task.config, task.seed, score, predicted, learner)
    chosen = select_members(labels, held_out, candidates, metric)
    temperature = fit_temperature(labels, chosen.probabilities)
    calibrated = scale_probabilities(chosen.probabilities, temperature)
    return FinalModel(
        kind=chosen.kind,
        members=chosen.members,
        weights=chosen.weights,
        considered=tuple(trial.number for trial in trials),
        temperature=temperature,
        score=chosen.score,
        default_score=chosen.default_score,
        whole_schedule=True,
        epochs=_epochs(trials, chosen.members, candidates.epochs) if candidates.epochs else (),
        thresholds=fit_thresholds(labels, calibrated),
        set_thresholds=fit_set_thresholds(labels, calibrated),
    )


def _epochs(trials: Sequence[TrialRecord], members: Sequence[int], fewer: Mapping[int, int]) -> tuple[int, ...]:
    """The epochs of each member's last fit."""
    planned = {trial.number: int(trial.config["epochs"]) for trial in trials}
    return tuple((planned | dict(fewer))[number] for number in members)
