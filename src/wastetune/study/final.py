"""The final model: selected, fitted, evaluated on the test set and saved. The only reader of the test set."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wastetune.backbones.activation_store import Activations, pooled
from wastetune.backbones.cuts import PIXELS, TOP, Cut
from wastetune.backbones.runtime import time_one_picture
from wastetune.console import Console
from wastetune.data.pixels import PictureSet
from wastetune.datasets.identity import name_dataset
from wastetune.errors import UserError
from wastetune.evaluation.calibration import measure_calibration, scale_probabilities
from wastetune.evaluation.conformal import apply_set_threshold
from wastetune.evaluation.novelty import fit_centres, fit_lowest, likeness
from wastetune.evaluation.objectives import render_costs
from wastetune.evaluation.scores import gain_intervals, score_predictions
from wastetune.evaluation.selective import accuracy_by_coverage, apply_threshold
from wastetune.evaluation.shift import measure_shift
from wastetune.files import remove
from wastetune.models.bundle import (
    CENTRES_FILE,
    BundleDescription,
    model_file,
    save_centres,
    save_description,
    save_model,
)
from wastetune.models.latency import mean_costs
from wastetune.models.parity import FOLDER as EXPORTS
from wastetune.report.predictions import Predictions
from wastetune.report.results import FinalEvaluation, FinalModel, ModelSize, Report, Retrain, read_report
from wastetune.report.text import final_model
from wastetune.storage.records import Opening, TrialAttrs, TrialRecord, read_attrs
from wastetune.storage.study import (
    MEASURED,
    best_trial,
    get_study_attr,
    note_opening,
    read_goals,
    read_records,
    read_study_info,
    read_trials,
)
from wastetune.study.members import Candidates, find_candidates
from wastetune.study.refit import RefitResult, refit, refit_again
from wastetune.study.select import select_final
from wastetune.study.time_limit import REPORT_SECONDS, open_pace, time_left, trim_candidates
from wastetune.training.assembly import average_probabilities
from wastetune.training.config import BACKBONE, TrialConfig
from wastetune.training.fit import TrainingFailed
from wastetune.tuning.objective import plain_set
from wastetune.tuning.prepare import Bar, Prepared, TrialContext, fingerprint_digest, package_versions
from wastetune.tuning.workers.model_costs import settle_costs

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

# With so many seeds the final model and the default are fitted, for the intervals; the first is kept. Not where a whole
# network is trained: that takes minutes for each, and intervals are over pictures alone.
_SEEDS = 3
_REPEATED = ("accuracy", "balanced_accuracy", "f1_macro")  # the scores of each seed in the report
_Fit = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]  # probabilities by the final model and by the default


@dataclass(frozen=True)
class Refit:
    """The evaluation of the final model and the default configuration on the test set, new or from an earlier run."""

    evaluation: FinalEvaluation
    seconds: float  # of the run that refitted
    predictions: Predictions | None = None  # None: from an earlier run, which wrote them
    earlier: Report | None = None  # the report of that run


def refit_winner(
    study: "optuna.Study", prepared: Prepared, folder: Path, console: Console, end: float | None = None
) -> Refit:
    """Refits the final model and the default configuration, evaluates both, and writes the bundle to the folder.

    With `end`, a moment of `time.monotonic`, no more trials are averaged, and nothing is fitted with more seeds, than
    there is time for.

    Nothing is trained where the folder's report and bundle are of these trials already. The study stores that the test
    set was opened before it is read. UserError where a configuration can no longer be trained.
    """
    best = best_trial(study)
    assert best is not None
    context, prepared = prepared.context, prepared.of(read_attrs(best).config.get(BACKBONE))
    goals = read_goals(study)
    candidates = find_candidates(
        read_records(study),
        validated=len(context.data.val),
        alone=context.spec.final == "best",
        goals=goals,
    )
    if end is not None:
        candidates = trim_candidates(candidates, open_pace(context), time_left(end))
    bundle = folder / "bundle"
    earlier = read_report(folder) if model_file(bundle).exists() else None
    answered = (fingerprint_digest(prepared), best.number, read_attrs(best).config)
    considered = tuple(trial.number for trial in candidates.trials)
    if (
        earlier
        and (earlier.fingerprint, earlier.best.number, earlier.best.config) == answered
        and (earlier.final is None or earlier.final.considered == considered)
        and earlier.limits == goals.limits
    ):
        refitted = Refit(earlier.evaluation, earlier.seconds.retrain, earlier=earlier)
    else:
        refitted = _refit_candidates(study, prepared, candidates, folder, console, end)
        if context.others:
            told = refitted.evaluation.model_copy(update={"latency_ms": _latencies(study, context)})
            refitted = replace(refitted, evaluation=told)
    save_description(bundle, _describe(study, prepared, best, refitted.evaluation))
    return refitted


def _latencies(study: "optuna.Study", context: TrialContext) -> dict[str, float]:
    """Milliseconds of one picture for each of several backbones, with the default's head where that is measured."""
    measured = get_study_attr(study, MEASURED, {"backbones": {}})["backbones"]
    known = {name: each["reference_ms"] for name, each in measured.items() if each["reference_ms"]}
    return known or {each.backbone.name: time_one_picture(each.backbone) for each in (context, *context.others)}


def _refit_candidates(
    study: "optuna.Study",
    prepared: Prepared,
    candidates: Candidates,
    folder: Path,
    console: Console,
    end: float | None,
) -> Refit:
    started = time.perf_counter()
    context, bundle = prepared.context, folder / "bundle"
    attrs = {trial.number: read_attrs(trial) for trial in read_trials(study)}
    try:
        final = _select(study, context, candidates, console)
        console.print(
            f"retraining the default configuration and the final model, {final_model(final)}, on train + validation"
        )
        openings = note_opening(study, final.members)
        ours, fits = _fit(prepared, final, candidates.default.number, attrs, bundle, console.bar, end)
    except TrainingFailed as error:
        raise UserError(f"retraining came to nothing: {error}; the trials are kept") from error
    remove(folder / EXPORTS)  # they are of an earlier winner
    evaluation = _measure(prepared, final, ours, fits, openings, bundle, console.bar)
    labels, (probabilities, by_default) = prepared.test.labels, fits[0]
    return Refit(
        evaluation=evaluation,
        seconds=time.perf_counter() - started,
        predictions=Predictions(context.classes, prepared.test.paths, labels, probabilities, by_default.argmax(axis=1)),
    )


def _select(study: "optuna.Study", context: TrialContext, candidates: Candidates, console: Console) -> FinalModel:
    """What the final model is made of; where the study has several objectives, with its costs.

    The limits hold for the model itself, which may be the mean of several: the last of them are left out until it is
    within the limits. TrainingFailed as in `select_final`.
    """
    meters, goals = settle_costs(study, context), read_goals(study)
    if not meters:
        return select_final(context, candidates, console)

    def measure(trials: Sequence[TrialRecord]) -> dict[str, float]:
        return mean_costs(meters[context.backbone.name], [TrialConfig.model_validate(trial.config) for trial in trials])

    console.print("measuring what the final model costs")
    considered = tuple(trial.number for trial in candidates.trials)
    costs = measure(candidates.together)
    while len(candidates.together) > 1 and not goals.allow(costs):
        console.print(f"  a mean of {len(candidates.together)} has {render_costs(costs, goals.limits)}; one less")
        candidates = replace(candidates, together=candidates.together[:-1])
        costs = measure(candidates.together)
    final = select_final(context, candidates, console)
    if final.kind == "default":
        costs = measure([candidates.default])
    return final.model_copy(update={"costs": costs, "considered": considered})


def _fit(
    prepared: Prepared,
    final: FinalModel,
    default: int,
    attrs: Mapping[int, TrialAttrs],
    bundle: Path,
    bar: Bar,
    end: float | None,
) -> tuple[RefitResult, list[_Fit]]:
    """The final model, saved to the bundle; its predictions and those of the default, of each seed."""
    context, test, started = prepared.context, prepared.test, time.monotonic()
    ours = refit(
        context,
        test,
        {number: attrs[number] for number in final.members},
        temperature=final.temperature,
        weights=final.weights,
        fewer_epochs=final.epochs,
        bar=bar,
        keep=lambda model: save_model(bundle, model),
    )
    if default in final.members:
        by_default = ours.each[default]
    else:
        by_default = refit(context, test, {default: attrs[default]}, bar=bar).uncalibrated
    fits = [(ours.probabilities, by_default)]
    everyone = {number: attrs[number] for number in {*final.members, default}}
    whole_network = any(each.cut == PIXELS.name for each in everyone.values())
    seconds = time.monotonic() - started
    for repeat in range(1, 1 if whole_network else _SEEDS):
        if end is not None and time_left(end) < seconds + REPORT_SECONDS:
            break
        each = refit_again(context, test, everyone, repeat=repeat, bar=bar)
        mean = average_probabilities([each[number] for number in final.members], final.weights)
        fits.append((scale_probabilities(mean, final.temperature).astype(np.float32), each[default]))
    return ours, fits


def _measure(
    prepared: Prepared,
    final: FinalModel,
    ours: RefitResult,
    fits: Sequence[_Fit],
    openings: tuple[Opening, ...],
    bundle: Path,
    bar: Bar,
) -> FinalEvaluation:
    """What the report says of the final model; writes the centres of the training pictures to the bundle."""
    context, test = prepared.context, prepared.test
    labels, classes, seed = test.labels, context.classes, context.spec.seed
    probabilities, by_default = fits[0]
    repeats, defaults = [ours for ours, _ in fits[1:]], [theirs for _, theirs in fits[1:]]
    again = [score_predictions(labels, each, classes) for each in repeats]
    train, val, sealed = (
        _features(context, pictures, TOP if ours.cut == PIXELS else ours.cut, bar)
        for pictures in (context.data.train, context.data.val, test)
    )
    seen = train + val
    lowest, unlike = None, None
    remove(bundle / CENTRES_FILE)
    if ours.cut != PIXELS:  # the whole network is trained: the model has no features that are as they were
        lowest = fit_lowest(likeness(val.vectors, fit_centres(train.vectors, train.labels, seed=seed)))
        centres = fit_centres(seen.vectors, seen.labels, seed=seed)
        save_centres(bundle, centres)
        unlike = float((likeness(sealed.vectors, centres) < lowest).mean())
    return FinalEvaluation(
        test=score_predictions(labels, probabilities, classes, repeats=repeats),
        default_test=score_predictions(labels, by_default, classes, repeats=defaults),
        retrain=Retrain(epochs=ours.epochs, largest_difference=ours.largest_difference),
        openings=openings,
        versions=package_versions(),
        gain=gain_intervals(labels, fits),
        repeats={key: tuple(getattr(scores, key) for scores in again) for key in _REPEATED if again},
        model=ModelSize(parameters=ours.parameters, trained=ours.trained, bytes=model_file(bundle).stat().st_size),
        final=final.model_copy(update={"unlike_below": lowest}),
        calibration=measure_calibration(labels, probabilities),
        uncalibrated=measure_calibration(labels, ours.uncalibrated),
        shift=measure_shift(seen.vectors, sealed.vectors, (seen.labels, sealed.labels), classes, test.paths, seed=seed),
        answered=tuple(apply_threshold(labels, probabilities, each) for each in final.thresholds),
        covered=tuple(apply_set_threshold(labels, probabilities, each) for each in final.set_thresholds),
        unlike=unlike,
        accuracy_by_coverage=accuracy_by_coverage(labels, probabilities),
    )


@dataclass(frozen=True)
class _Features:
    """Pooled features of pictures at a cut (n, f), and their labels (n,)."""

    vectors: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __add__(self, other: "_Features") -> "_Features":
        return _Features(np.concatenate([self.vectors, other.vectors]), np.concatenate([self.labels, other.labels]))


def _features(context: TrialContext, pictures: PictureSet, cut: Cut, bar: Bar) -> _Features:
    """The features of pictures at a cut."""
    side = plain_set(context, pictures, cut, bar, ahead=False)
    assert isinstance(side.activations, Activations)
    return _Features(pooled(side.activations), side.labels)


def data_name(study: "optuna.Study", prepared: Prepared) -> str:
    """The name of the study's data set, as the study has stored it."""
    info = read_study_info(study)
    return info.data.name if info else name_dataset(prepared.index.folder, prepared.context.spec.dataset_name)


def _describe(
    study: "optuna.Study", prepared: Prepared, best: "FrozenTrial", evaluation: FinalEvaluation
) -> BundleDescription:
    context = prepared.context
    description = BundleDescription(
        study=context.spec.name,
        backbone=read_attrs(best).config.get(BACKBONE, context.spec.backbones[0]),
        dataset=data_name(study, prepared),
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
