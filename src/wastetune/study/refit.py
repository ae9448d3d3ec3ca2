"""Refits the winner on training and validation pictures and evaluates it; the only reader of the test set."""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wastetune.backbones.backbone import nearest_cut
from wastetune.console import Console
from wastetune.data.pixels import PictureSet
from wastetune.errors import UserError
from wastetune.files import remove
from wastetune.models.bundle import MODEL_FILE, BundleDescription, save_description, save_model
from wastetune.models.parity import FOLDER as EXPORTS
from wastetune.report.predictions import Predictions
from wastetune.report.results import FinalEvaluation, ModelSize, Report, Retrain, read_report
from wastetune.storage.records import TrialAttrs, read_attrs
from wastetune.storage.study import best_trial, default_trial, get_study_attr, set_study_attr
from wastetune.study.objective import plain_set, training_set
from wastetune.study.prepare import Bar, Prepared, TrialContext, package_versions, trial_seed
from wastetune.training.config import TrialConfig
from wastetune.training.evaluation import Scores, gain_intervals, score_predictions
from wastetune.training.fit import TrainingFailed, TrainingSet, fit_final, predict_probabilities, steps_per_epoch
from wastetune.training.learner import as_keras, assemble_model, open_learner

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

# The assembled model and the stored activations (half precision) may differ by so much in a probability.
TOLERANCE = 0.1
_CHECKED = 32


@dataclass(frozen=True)
class Refit:
    """The evaluation of the winner and the default configuration on the test set, new or from an earlier run."""

    evaluation: FinalEvaluation
    seconds: float  # of the run that refitted
    predictions: Predictions | None = None  # None: from an earlier run, which wrote them
    earlier: Report | None = None  # the report of that run


@dataclass(frozen=True)
class RefitResult:
    """A configuration fitted on all but the test set, and its predictions of the test set."""

    epochs: int
    scores: Scores
    probabilities: npt.NDArray[np.float32]  # (n, classes)
    parameters: int  # of the whole model, trained or not
    largest_difference: float  # between assembled model and stored activations, in a probability
    seconds: float


def refit_winner(study: "optuna.Study", prepared: Prepared, folder: Path, console: Console) -> Refit:
    """Refits the winner and the default configuration, evaluates both, and writes the winner's bundle to the folder.

    Nothing is trained where the folder's report and bundle are of this winner already. The study stores that the test
    set was opened before it is read. UserError where a configuration can no longer be trained.
    """
    best, default = best_trial(study), default_trial(study)
    assert best is not None
    assert default is not None
    bundle = folder / "bundle"
    earlier = read_report(folder) if (bundle / MODEL_FILE).exists() else None
    answered = (fingerprint_digest(prepared), best.number, read_attrs(best).config)
    if earlier and (earlier.fingerprint, earlier.best.number, earlier.best.config) == answered:
        refitted = Refit(earlier.evaluation, earlier.seconds.retrain, earlier=earlier)
    else:
        refitted = _refit_both(study, prepared, best, default, folder, console)
    save_description(bundle, _describe(prepared, best, refitted.evaluation))
    return refitted


def fingerprint_digest(prepared: Prepared) -> str:
    """The study's fingerprint in 16 characters."""
    return hashlib.sha256(json.dumps(prepared.fingerprint).encode()).hexdigest()[:16]


def _refit_both(
    study: "optuna.Study",
    prepared: Prepared,
    best: "FrozenTrial",
    default: "FrozenTrial",
    folder: Path,
    console: Console,
) -> Refit:
    console.print("retraining the default configuration and the winner on train + validation")
    opened = list(dict.fromkeys([*get_study_attr(study, "test_opened_for", ()), best.number]))
    set_study_attr(study, "test_opened_for", opened)
    context, test, bundle = prepared.context, prepared.test, folder / "bundle"

    def refit_trial(trial: "FrozenTrial", keep: Callable[[Any], None]) -> RefitResult:
        try:
            return refit(context, test, number=trial.number, attrs=read_attrs(trial), bar=console.bar, keep=keep)
        except TrainingFailed as error:
            raise UserError(f"retraining trial {trial.number} came to nothing: {error}; the trials are kept") from error

    baseline = None if best.number == default.number else refit_trial(default, lambda model: None)
    winner = refit_trial(best, lambda model: save_model(bundle, model))
    remove(folder / EXPORTS)  # they are of an earlier winner
    seconds = winner.seconds + (baseline.seconds if baseline else 0.0)
    baseline = baseline or winner
    predicted_by_default = baseline.probabilities.argmax(axis=1)
    return Refit(
        evaluation=FinalEvaluation(
            test=winner.scores,
            default_test=baseline.scores,
            retrain=Retrain(epochs=winner.epochs, largest_difference=winner.largest_difference),
            test_opened_for=tuple(opened),
            versions=package_versions(),
            gain=gain_intervals(test.labels, winner.probabilities, baseline.probabilities),
            model=ModelSize(
                parameters=winner.parameters,
                trained=read_attrs(best).trainable_parameters,
                bytes=(bundle / MODEL_FILE).stat().st_size,
            ),
        ),
        seconds=seconds,
        predictions=Predictions(context.classes, test.paths, test.labels, winner.probabilities, predicted_by_default),
    )


def _describe(prepared: Prepared, best: "FrozenTrial", evaluation: FinalEvaluation) -> BundleDescription:
    context = prepared.context
    return BundleDescription(
        study=context.spec.name,
        backbone=context.spec.backbone,
        dataset=prepared.index.folder.resolve().name,
        classes=context.classes,
        fingerprint=fingerprint_digest(prepared),
        versions=evaluation.versions,
        test=evaluation.test,
        input_size=context.backbone.size,
        config=dict(read_attrs(best).config),
    )


def refit(
    context: TrialContext,
    test: PictureSet,
    *,
    number: int,
    attrs: TrialAttrs,
    bar: Bar,
    keep: Callable[[Any], None] = lambda model: None,
) -> RefitResult:
    """Fits a finished trial's stored configuration again and evaluates it on the test pictures.

    It makes as many passes over train + validation as the trial's best epoch had over train, and the learning-rate
    schedule is rescaled to end there, so that the model that is kept has converged. `keep` is called with the whole
    model, from pixels to probabilities, while it has its weights.
    TrainingFailed where that model does not agree with the stored activations.
    """
    started = time.perf_counter()
    config = TrialConfig.model_validate(attrs.config)
    epochs = attrs.best_epoch
    assert epochs is not None  # of a finished trial
    cut = nearest_cut(context.backbone, config.frozen_depth)
    train = _join(
        *(training_set(context, part, config, bar, ahead=False) for part in (context.data.train, context.data.val))
    )
    sealed = plain_set(context, test, config, bar, ahead=False)
    seed = trial_seed(context, number)
    steps = epochs * steps_per_epoch(len(train.labels), config)
    with ExitStack() as stack:
        classes = len(context.classes)
        learner = stack.enter_context(open_learner(context.backbone, cut, config, classes, horizon=steps, seed=seed))
        fit_final(learner, train, config=config, steps=steps, seed=seed)
        probabilities = predict_probabilities(learner, sealed.activations)
        model = stack.enter_context(as_keras(learner, context.backbone, cut, config, classes))
        whole = assemble_model(context.backbone, cut, model)
        some = np.unique(np.linspace(0, len(test) - 1, _CHECKED).astype(int))  # of all classes
        pixels = np.concatenate([test.read(range(row, row + 1)) for row in some]).astype(np.float32)
        difference = float(np.abs(np.asarray(whole.predict_on_batch(pixels)) - probabilities[some]).max())
        if not difference <= TOLERANCE:
            raise TrainingFailed(
                f"the assembled model differs from the stored activations by {difference:.3g} in a probability"
            )
        parameters = int(whole.count_params())
        keep(whole)
    return RefitResult(
        epochs,
        score_predictions(sealed.labels, probabilities, context.classes),
        probabilities,
        parameters,
        difference,
        time.perf_counter() - started,
    )


def _join(first: TrainingSet, second: TrainingSet) -> TrainingSet:
    views = tuple(a + b for a, b in zip(first.views, second.views, strict=True))
    return TrainingSet(views, np.concatenate([first.labels, second.labels]))
