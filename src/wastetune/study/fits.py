"""Fits several configurations for their whole schedules: heads alone on all cores at once, tails one after another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wastetune.backbones.activation_store import Activations
from wastetune.backbones.backbone import nearest_cut
from wastetune.training.config import TrialConfig
from wastetune.training.fit import TrainingSet, fit_final, predict_probabilities, steps_per_epoch
from wastetune.training.learner import FloatArray, Learner, is_head_alone, open_head
from wastetune.tuning.objective import fitted_learner
from wastetune.tuning.prepare import TrialContext

# Below so many pictures in all, each counted once an epoch, processes take longer to start than they save.
_WORTH_PROCESSES = 100_000


@dataclass(frozen=True)
class FitTask:
    """A configuration, what it is fitted on for so many epochs, and the pictures whose classes it then predicts.

    A tail begins with the weights `start`, one after the other, if there are any.
    """

    config: TrialConfig
    train: TrainingSet
    predicted: Activations
    epochs: int
    seed: int
    start: FloatArray | None = None


def fit_each(context: TrialContext, tasks: Sequence[FitTask]) -> Iterator[tuple[Learner, FloatArray]]:
    """The learner of each task, in their order, and its class probabilities (n, classes) of the task's pictures.

    A learner with a tail has its weights until the next one is asked for. The result does not depend on the number of
    cores. TrainingFailed as in `run_trial`.
    """
    small = [_is_small(context, task) for task in tasks]
    heads = _fit_heads([task for task, head in zip(tasks, small, strict=True) if head])
    for task, head in zip(tasks, small, strict=True):
        if head:
            yield next(heads)
        else:
            epochs, seed, start = task.epochs, task.seed, task.start
            with fitted_learner(context, task.config, task.train, epochs=epochs, seed=seed, start=start) as learner:
                yield learner, predict_probabilities(learner, task.predicted)


def _is_small(context: TrialContext, task: FitTask) -> bool:
    """Whether it is a head alone, of stored activations: the trunk that live views need fills all cores itself."""
    cut = nearest_cut(context.backbone, task.config.frozen_depth)
    return is_head_alone(cut, task.config) and task.train.live is None


def _fit_heads(tasks: Sequence[FitTask]) -> Iterator[tuple[Learner, FloatArray]]:
    """Each in a process of its own while cores are free: a head is too small for more than one core, or for threads."""
    from joblib import Parallel, cpu_count, delayed

    pictures = sum(task.epochs * len(task.train.labels) for task in tasks)
    processes = min(cpu_count(), len(tasks)) if pictures >= _WORTH_PROCESSES else 1
    yield from Parallel(max(processes, 1), return_as="generator")(delayed(_fit_head)(task) for task in tasks)


def _fit_head(task: FitTask) -> tuple[Learner, FloatArray]:
    (features,) = task.train.views[0].shape
    steps = task.epochs * steps_per_epoch(len(task.train.labels), task.config)
    with open_head(features, task.config, task.train.classes, horizon=steps, seed=task.seed) as head:
        fit_final(head, task.train, config=task.config, steps=steps, seed=task.seed)
        return head, predict_probabilities(head, task.predicted)
