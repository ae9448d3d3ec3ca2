"""Selects the final model, refits it on training and validation pictures and evaluates it.

The only reader of the test set.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wastetune.backbones.activation_store import pooled
from wastetune.backbones.backbone import nearest_cut
from wastetune.console import Console
from wastetune.data.pixels import PictureSet
from wastetune.errors import UserError
from wastetune.evaluation.calibration import fit_temperature, measure_calibration, scale_probabilities
from wastetune.evaluation.conformal import apply_set_threshold, fit_set_thresholds
from wastetune.evaluation.novelty import fit_centres, fit_lowest, likeness
from wastetune.evaluation.scores import Scores, gain_intervals, score_predictions
from wastetune.evaluation.selective import accuracy_by_coverage, apply_threshold, fit_thresholds
from wastetune.evaluation.shift import measure_shift
from wastetune.files import remove
from wastetune.models.bundle import MODEL_FILE, BundleDescription, save_centres, save_description, save_model
from wastetune.models.parity import FOLDER as EXPORTS
from wastetune.report.predictions import Predictions
from wastetune.report.results import FinalEvaluation, FinalModel, ModelSize, Report, Retrain, read_report
from wastetune.report.text import final_model
from wastetune.search.selection import ENSEMBLE, Candidates, find_candidates, select_members
from wastetune.seeding import seed_for
from wastetune.storage.records import TrialAttrs, read_attrs
from wastetune.storage.study import best_trial, note_opening, read_records, read_trials
from wastetune.study.objective import cross_predict, fitted_learner, fitting_set, plain_set
from wastetune.study.prepare import Bar, Prepared, TrialContext, package_versions, trial_seed
from wastetune.training.config import TrialConfig
from wastetune.training.fit import TrainingFailed, predict_probabilities
from wastetune.training.learner import as_keras, assemble_model, count_parameters, join_heads

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_REPEATED = ("accuracy", "balanced_accuracy", "f1_macro")  # the scores of each seed in the report

# The assembled model and the stored activations (half precision) may differ by so much in a probability.
TOLERANCE = 0.1
_CHECKED = 32
_SEEDS = 3  # with which the final model and the default are fitted, for the intervals; the first is kept


@dataclass(frozen=True)
class Refit:
    """The evaluation of the final model and the default configuration on the test set, new or from an earlier run."""

    evaluation: FinalEvaluation
    seconds: float  # of the run that refitted
    predictions: Predictions | None = None  # None: from an earlier run, which wrote them
    earlier: Report | None = None  # the report of that run


@dataclass(frozen=True)
class RefitResult:
    """Configurations fitted on all but the test set, and the mean of their predictions of the test set."""

    epochs: int  # of the first one
    scores: Scores
    probabilities: npt.NDArray[np.float32]  # (n, classes), at the temperature
    uncalibrated: npt.NDArray[np.float32]  # likewise, at a temperature of 1
    each: Mapping[int, npt.NDArray[np.float32]]  # likewise, of each configuration alone
    parameters: int  # of the whole model, trained or not
    trained: int  # of them
    largest_difference: float  # between assembled model and stored activations, in a probability


def refit_winner(study: "optuna.Study", prepared: Prepared, folder: Path, console: Console) -> Refit:
    """Refits the final model and the default configuration, evaluates both, and writes the bundle to the folder.

    Nothing is trained where the folder's report and bundle are of these trials already. The study stores that the test
    set was opened before it is read. UserError where a configuration can no longer be trained.
    """
    best = best_trial(study)
    assert best is not None
    most = ENSEMBLE if prepared.context.spec.final == "ensemble" else 1
    candidates = find_candidates(read_records(study), most=most)
    bundle = folder / "bundle"
    earlier = read_report(folder) if (bundle / MODEL_FILE).exists() else None
    answered = (fingerprint_digest(prepared), best.number, read_attrs(best).config)
    considered = tuple(trial.number for trial in candidates.trials)
    if (
        earlier
        and (earlier.fingerprint, earlier.best.number, earlier.best.config) == answered
        and (earlier.final is None or earlier.final.considered == considered)
    ):
        refitted = Refit(earlier.evaluation, earlier.seconds.retrain, earlier=earlier)
    else:
        refitted = _refit_candidates(study, prepared, candidates, folder, console)
    save_description(bundle, _describe(prepared, best, refitted.evaluation))
    return refitted


def fingerprint_digest(prepared: Prepared) -> str:
    """The study's fingerprint in 16 characters."""
    return hashlib.sha256(json.dumps(prepared.fingerprint).encode()).hexdigest()[:16]


def _refit_candidates(
    study: "optuna.Study", prepared: Prepared, candidates: Candidates, folder: Path, console: Console
) -> Refit:
    started = time.perf_counter()
    context, test, bundle, bar = prepared.context, prepared.test, folder / "bundle", console.bar
    attrs = {trial.number: read_attrs(trial) for trial in read_trials(study)}
    default = candidates.default.number
    try:
        final, temperature = _select_final(context, candidates, console)
        console.print(
            f"retraining the default configuration and the final model, {final_model(final)}, on train + validation"
        )
        openings = note_opening(study, final.members)
        ours = refit(
            context,
            test,
            {number: attrs[number] for number in final.members},
            temperature=temperature,
            bar=bar,
            keep=lambda model: save_model(bundle, model),
        )
        if default in final.members:
            by_default = ours.each[default]
        else:
            by_default = refit(context, test, {default: attrs[default]}, bar=bar).uncalibrated
        fits = [(ours.probabilities, by_default)]
        for repeat in range(1, _SEEDS):
            each = _refit_again(context, test, {n: attrs[n] for n in {*final.members, default}}, repeat, bar)
            mean = np.mean([each[number] for number in final.members], axis=0)
            fits.append((scale_probabilities(mean, temperature).astype(np.float32), each[default]))
    except TrainingFailed as error:
        raise UserError(f"retraining came to nothing: {error}; the trials are kept") from error
    train, val, sealed = (
        _features(context, pictures, attrs[final.members[0]], bar)
        for pictures in (context.data.train, context.data.val, test)
    )
    seen, seed = train + val, context.spec.seed
    lowest = fit_lowest(likeness(val.vectors, fit_centres(train.vectors, train.labels, seed=seed)))
    centres = fit_centres(seen.vectors, seen.labels, seed=seed)
    save_centres(bundle, centres)
    final = final.model_copy(update={"unlike_below": lowest})
    remove(folder / EXPORTS)  # they are of an earlier winner
    labels, classes = test.labels, context.classes
    repeats = [one for one, _ in fits[1:]]
    again = [score_predictions(labels, one, classes) for one in repeats]
    return Refit(
        evaluation=FinalEvaluation(
            test=score_predictions(labels, ours.probabilities, classes, repeats=repeats),
            default_test=score_predictions(labels, by_default, classes, repeats=[other for _, other in fits[1:]]),
            retrain=Retrain(epochs=ours.epochs, largest_difference=ours.largest_difference),
            openings=openings,
            versions=package_versions(),
            gain=gain_intervals(labels, fits),
            repeats={key: tuple(getattr(scores, key) for scores in again) for key in _REPEATED},
            model=ModelSize(
                parameters=ours.parameters, trained=ours.trained, bytes=(bundle / MODEL_FILE).stat().st_size
            ),
            final=final,
            calibration=measure_calibration(labels, ours.probabilities),
            uncalibrated=measure_calibration(labels, ours.uncalibrated),
            shift=measure_shift(
                seen.vectors, sealed.vectors, (seen.labels, sealed.labels), classes, test.paths, seed=seed
            ),
            unlike=float((likeness(sealed.vectors, centres) < lowest).mean()),
            answered=tuple(apply_threshold(labels, ours.probabilities, each) for each in final.thresholds),
            covered=tuple(apply_set_threshold(labels, ours.probabilities, each) for each in final.set_thresholds),
            accuracy_by_coverage=accuracy_by_coverage(labels, ours.probabilities),
        ),
        seconds=time.perf_counter() - started,
        predictions=Predictions(classes, test.paths, labels, ours.probabilities, by_default.argmax(axis=1)),
    )


def _select_final(context: TrialContext, candidates: Candidates, console: Console) -> tuple[FinalModel, float]:
    """The final model, by predictions of the validation pictures that fitting did not see, and its temperature."""
    trials, labels = candidates.trials, context.data.val.labels
    folds = np.repeat([-1, 0], [len(context.data.train), len(labels)])
    held_out = {}
    console.print(f"comparing {len(trials)} trials on validation pictures that they are not fitted on")
    for trial in trials:
        config = TrialConfig.model_validate(trial.config)
        assert trial.best_epoch is not None  # of a complete trial
        predicted = cross_predict(context, config, folds, number=trial.number, epochs=trial.best_epoch, bar=console.bar)
        held_out[trial.number] = predicted[folds == 0]
    chosen = select_members(labels, held_out, candidates, context.spec.metric)
    mean = np.mean([held_out[number] for number in chosen.members], axis=0)
    temperature = fit_temperature(labels, mean)
    calibrated = scale_probabilities(mean, temperature)
    final = FinalModel(
        kind=chosen.kind,
        members=chosen.members,
        considered=tuple(trial.number for trial in trials),
        temperature=temperature,
        score=chosen.score,
        default_score=chosen.default_score,
        thresholds=fit_thresholds(labels, calibrated),
        set_thresholds=fit_set_thresholds(labels, calibrated),
    )
    return final, temperature


@dataclass(frozen=True)
class _Features:
    """Pooled features of pictures at a cut (n, f), and their labels (n,)."""

    vectors: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __add__(self, other: "_Features") -> "_Features":
        return _Features(np.concatenate([self.vectors, other.vectors]), np.concatenate([self.labels, other.labels]))


def _features(context: TrialContext, pictures: PictureSet, attrs: TrialAttrs, bar: Bar) -> _Features:
    """The features of pictures at the cut of a trial."""
    side = plain_set(context, pictures, TrialConfig.model_validate(attrs.config), bar, ahead=False)
    return _Features(pooled(side.activations), side.labels)


def _refit_again(
    context: TrialContext, test: PictureSet, members: Mapping[int, TrialAttrs], repeat: int, bar: Bar
) -> dict[int, npt.NDArray[np.float32]]:
    """Probabilities of the test pictures by each of these trials, fitted as in `refit` with other seeds."""
    predicted = {}
    for number, attrs in members.items():
        config = TrialConfig.model_validate(attrs.config)
        assert attrs.best_epoch is not None  # of a finished trial
        everything, seed = fitting_set(context, config, bar), seed_for("repeat", trial_seed(context, number), repeat)
        with fitted_learner(context, config, everything, epochs=attrs.best_epoch, seed=seed) as learner:
            predicted[number] = predict_probabilities(
                learner, plain_set(context, test, config, bar, ahead=False).activations
            )
    return predicted


def _describe(prepared: Prepared, best: "FrozenTrial", evaluation: FinalEvaluation) -> BundleDescription:
    context = prepared.context
    description = BundleDescription(
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
    if evaluation.final is None:  # refitted by an earlier version
        return description
    final = evaluation.final
    keys = {"members", "temperature", "thresholds", "set_thresholds", "unlike_below"} & final.model_fields_set
    return description.model_copy(update={key: getattr(final, key) for key in keys})


def refit(
    context: TrialContext,
    test: PictureSet,
    members: Mapping[int, TrialAttrs],
    *,
    bar: Bar,
    temperature: float = 1.0,
    keep: Callable[[Any], None] = lambda model: None,
) -> RefitResult:
    """Fits the stored configurations of finished trials again and evaluates their mean on the test pictures.

    Each makes as many passes over train + validation as its trial's best epoch had over train, and the learning-rate
    schedule is rescaled to end there, so that the model that is kept has converged. All have one cut.
    `keep` is called with the whole model, from pixels to probabilities, while it has its weights.
    TrainingFailed where that model does not agree with the stored activations.
    """
    configs = {number: TrialConfig.model_validate(attrs.config) for number, attrs in members.items()}
    cut = nearest_cut(context.backbone, next(iter(configs.values())).frozen_depth)
    classes, logits, trained, inputs = len(context.classes), [], 0, None
    fitted: dict[int, npt.NDArray[np.float32]] = {}
    with ExitStack() as stack:
        for number, config in configs.items():
            epochs = members[number].best_epoch
            assert epochs is not None  # of a finished trial
            everything = fitting_set(context, config, bar)
            sealed = plain_set(context, test, config, bar, ahead=False)
            learner = stack.enter_context(
                fitted_learner(context, config, everything, epochs=epochs, seed=trial_seed(context, number))
            )
            fitted[number] = predict_probabilities(learner, sealed.activations)
            trained += count_parameters(learner)
            model = stack.enter_context(as_keras(learner, context.backbone, cut, config, classes))
            inputs = model.input if inputs is None else inputs
            logits.append(model.output if len(configs) == 1 else model(inputs))
        uncalibrated = np.mean(list(fitted.values()), axis=0)
        probabilities = scale_probabilities(uncalibrated, temperature).astype(np.float32)
        whole = assemble_model(context.backbone, cut, join_heads(inputs, logits, temperature))
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
        epochs=next(iter(members.values())).best_epoch or 0,
        scores=score_predictions(test.labels, probabilities, context.classes),
        probabilities=probabilities,
        uncalibrated=uncalibrated,
        each=fitted,
        parameters=parameters,
        trained=trained,
        largest_difference=difference,
    )
