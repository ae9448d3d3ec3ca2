"""Fits configurations of finished trials again, on all but the test set, and predicts the test pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wastetune.backbones.backbone import nearest_cut
from wastetune.backbones.cuts import PIXELS, Cut
from wastetune.data.pixels import PictureSet
from wastetune.evaluation.calibration import scale_probabilities
from wastetune.evaluation.scores import Scores, score_predictions
from wastetune.seeding import seed_for
from wastetune.storage.records import TrialAttrs
from wastetune.study.fits import FitTask, fit_each
from wastetune.training.assembly import assemble_model, average_probabilities, copy_branch
from wastetune.training.config import TrialConfig
from wastetune.training.fit import TrainingFailed
from wastetune.training.learner import as_keras, count_parameters, get_weights
from wastetune.tuning.held_out import read_weights
from wastetune.tuning.objective import fitted_learner, fitting_set, plain_set, training_set
from wastetune.tuning.prepare import Bar, TrialContext, trial_seed

# The assembled model and the stored activations (half precision) may differ by so much in a probability.
TOLERANCE = 0.1
_CHECKED = 32


@dataclass(frozen=True)
class RefitResult:
    """Configurations fitted on all but the test set, and the mean of their predictions of the test set."""

    epochs: int  # of the first one
    scores: Scores
    probabilities: npt.NDArray[np.float32]  # (n, classes), at the temperature
    uncalibrated: npt.NDArray[np.float32]  # likewise, at a temperature of 1
    each: Mapping[int, npt.NDArray[np.float32]]  # likewise, of each configuration fitted again alone
    parameters: int  # of the whole model, trained or not
    trained: int  # of them
    cut: Cut  # the highest of their cuts
    largest_difference: float  # between assembled model and stored activations, in a probability


def refit(
    context: TrialContext,
    test: PictureSet,
    members: Mapping[int, TrialAttrs],
    *,
    bar: Bar,
    temperature: float = 1.0,
    weights: Sequence[float] = (),
    whole_schedule: bool = True,
    fewer_epochs: Sequence[int] = (),
    use_kept: bool = True,
    keep: Callable[[Any], None] = lambda model: None,
) -> RefitResult:
    """Fits the stored configurations of finished trials again and evaluates their mean on the test pictures.

    `weights`: of each in the mean; none: all alike.

    Each is fitted for all epochs of its configuration, also where its trial was stopped early: what is left of the
    learning-rate schedule is where it converges (figures in docs/log.md). Without `whole_schedule` it is fitted up to
    its trial's best epoch, with the schedule rescaled to end there, as earlier versions did. `fewer_epochs`: of each,
    instead of those.
    A whole network begins with the weights that its trial left, which a second fit makes better than a new one is
    (likewise). Where they were not kept, or with `use_kept` false, the trial's fit is made again first.
    `keep` is called with the whole model, from pixels to probabilities.
    TrainingFailed where that model does not agree with the stored activations.
    """
    backbone, classes = context.backbone, len(context.classes)
    branches, trained = [], 0
    configs = {number: TrialConfig.model_validate(attrs.config) for number, attrs in members.items()}
    epochs = {
        number: config.epochs if whole_schedule else members[number].best_epoch or 0
        for number, config in configs.items()
    }
    if fewer_epochs:
        epochs = dict(zip(configs, fewer_epochs, strict=True))
    tasks = [
        _task(context, test, config, epochs=epochs[number], seed=trial_seed(context, number), bar=bar)
        for number, config in configs.items()
    ]
    tasks = [_continued(context, task, use_kept=use_kept, bar=bar) for task in tasks]
    predictions = []
    for task, (learner, predicted) in zip(tasks, fit_each(context, tasks), strict=True):
        cut = nearest_cut(backbone, task.config.frozen_depth)
        predictions.append(predicted)
        trained += count_parameters(learner)
        with as_keras(learner, backbone, cut, task.config, classes) as model:
            branches.append(copy_branch(cut, model))
    uncalibrated = average_probabilities(predictions, weights)
    probabilities = scale_probabilities(uncalibrated, temperature).astype(np.float32)
    whole = assemble_model(backbone, branches, temperature, weights)
    some = np.unique(np.linspace(0, len(test) - 1, _CHECKED).astype(int))  # of all classes
    pixels = np.concatenate([test.decode(range(row, row + 1)) for row in some]).astype(np.float32)
    difference = float(np.abs(np.asarray(whole.predict_on_batch(pixels)) - probabilities[some]).max())
    if not difference <= TOLERANCE:
        raise TrainingFailed(
            f"the assembled model differs from the stored activations by {difference:.3g} in a probability"
        )
    keep(whole)
    return RefitResult(
        epochs=next(iter(epochs.values())),
        scores=score_predictions(test.labels, probabilities, context.classes),
        probabilities=probabilities,
        uncalibrated=uncalibrated,
        each=dict(zip(configs, predictions, strict=True)),
        parameters=int(whole.count_params()),
        trained=trained,
        cut=max((branch.cut for branch in branches), key=lambda cut: cut.frozen_depth),
        largest_difference=difference,
    )


def refit_again(
    context: TrialContext, test: PictureSet, members: Mapping[int, TrialAttrs], *, repeat: int, bar: Bar
) -> dict[int, npt.NDArray[np.float32]]:
    """Probabilities of the test pictures (n, classes) by each of these trials, fitted as in `refit` with other seeds.

    Each `repeat` has its own seeds.
    """
    tasks = []
    for number, attrs in members.items():
        config = TrialConfig.model_validate(attrs.config)
        seed = seed_for("repeat", trial_seed(context, number), repeat)
        tasks.append(_task(context, test, config, epochs=config.epochs, seed=seed, bar=bar))
    return {number: predicted for number, (_, predicted) in zip(members, fit_each(context, tasks), strict=True)}


def _continued(context: TrialContext, task: FitTask, *, use_kept: bool, bar: Bar) -> FitTask:
    """The task, which for a whole network begins with the weights of its trial."""
    config = task.config
    if nearest_cut(context.backbone, config.frozen_depth) != PIXELS:
        return task
    weights = read_weights(context, config, task.seed) if use_kept else None
    if weights is None:
        train = training_set(context, context.data.train, config, bar)
        with fitted_learner(context, config, train, epochs=config.epochs, seed=task.seed) as learner:
            weights = get_weights(learner)
    return replace(task, start=weights)


def _task(context: TrialContext, test: PictureSet, config: TrialConfig, *, epochs: int, seed: int, bar: Bar) -> FitTask:
    """Fits the configuration on all but the test set, and predicts the test pictures."""
    everything = fitting_set(context, config, bar)
    sealed = plain_set(context, test, nearest_cut(context.backbone, config.frozen_depth), bar, ahead=False)
    return FitTask(config, everything, sealed.activations, epochs, seed)
