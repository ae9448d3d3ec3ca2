"""The lines that a person reads while a study runs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from wastetune import storage
from wastetune.data.index import contradictions
from wastetune.prepare import Prepared

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

# What the line of a trial shows of its configuration.
_SHOWN = ("frozen_depth", "augmentation", "head_layers", "head_units", "learning_rate", "batch_size")
_LISTED = 20  # of the files that were left out


def render_found(prepared: Prepared) -> Iterator[str]:
    """What there is to work with: pictures, split, what was left out, backbone."""
    index, splits, backbone = prepared.index, prepared.splits, prepared.setting.backbone
    yield (
        f"{index.folder}: {len(index.pictures):,} pictures in {len(index.classes)} classes, "
        f"{len(splits.train):,} to train, {len(splits.val):,} to validate, {len(splits.test):,} sealed for the test"
    )
    for problem in index.problems[:_LISTED]:
        yield f"  left out: {problem.path}: {problem.what}"
    if len(index.problems) > _LISTED:
        yield f"  left out: {len(index.problems) - _LISTED} more, see wastetune data check"
    if splits.left_out:
        yield f"  left out of training: {len(splits.left_out)} pictures that look like one of the data set's own test"
    for group in contradictions(index):
        yield f"  the same picture in two classes: {', '.join(picture.path for picture in group)}"
    yield f"{backbone.name} at {backbone.size} px, weights {backbone.digest[:8]}, {len(backbone.cuts)} cuts"


def render_trial(trial: "FrozenTrial", study: "optuna.Study") -> str:
    """A trial that has ended: number, score, seconds, best so far, key parameters."""
    state, config = trial.state.name, trial.user_attrs.get("config", {})
    if state == "FAIL":
        return f"trial {trial.number:3d}  failed    {trial.user_attrs['failure']}"
    best = storage.best_trial(study)
    score = f"{trial.value:.4f}" if state == "COMPLETE" else "pruned"
    so_far = f"best {best.value:.4f} (trial {best.number})" if best else ""
    shown = "  ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key in _SHOWN
        if (value := config.get(key)) is not None
    )
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    return f"trial {trial.number:3d}  {score:8}  {seconds:5.0f} s  {so_far}  {shown}"
