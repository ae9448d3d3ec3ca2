"""The progress of a study: trials by state, workers, best score so far, trials per minute, time left."""

import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from wastetune.data.corrections import render_corrected
from wastetune.data.index import contradictions
from wastetune.settings import lease_seconds
from wastetune.storage.budget import is_void, only_finished
from wastetune.storage.records import read_attrs
from wastetune.storage.study import best_trial, get_study_attr, read_study_info, read_trials
from wastetune.tuning.prepare import Prepared

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_STATES = ("COMPLETE", "PRUNED", "RUNNING", "FAIL")
_RECENT = 20  # finished trials that the rate is computed from, so that it follows the number of workers


def describe_status(study: "optuna.Study", now: float | None = None) -> dict[str, Any]:
    """The state of a study as plain values: seconds, and trials per minute.

    A worker is alive when its trial had a heartbeat within the lease, by this machine's clock.
    """
    now = time.time() if now is None else now
    trials = [trial for trial in read_trials(study) if not is_void(trial)]
    counts = Counter(trial.state.name for trial in trials)
    asked = get_study_attr(study, "trials", 0)
    finished = only_finished(trials)
    best, info = best_trial(study), read_study_info(study)
    workers = [
        {
            "host": owner["host"],
            "pid": owner["pid"],
            "trial": trial.number,
            "seconds": round(_seconds_since(trial.datetime_start, now), 1),
            "silent_seconds": round(max(silent, 0.0), 1),
            "alive": silent < lease_seconds(),
        }
        for trial, attrs in zip(trials, map(read_attrs, trials), strict=True)
        if trial.state.name == "RUNNING" and (owner := attrs.owner)
        for silent in [0.0 if attrs.beat is None else now - attrs.beat]
    ]
    left = max(asked - len(finished), 0)
    recent = sorted(trial.datetime_complete.timestamp() for trial in finished if trial.datetime_complete)[-_RECENT:]
    span = (now if left else recent[-1]) - recent[0] if len(recent) > 1 else 0.0
    rate = 60 * (len(recent) - 1) / span if span > 0 else None
    return {
        "study": study.study_name,
        "question": info.question if info else "",
        "asked": asked,
        "finished": len(finished),
        "trials": {state.lower(): counts[state] for state in _STATES},
        "failures": dict(Counter(read_attrs(trial).failure or "?" for trial in trials if trial.state.name == "FAIL")),
        "best": None
        if best is None
        else {"trial": best.number, "score": best.value, "config": read_attrs(best).config},
        "workers": workers,
        "trials_per_minute": None if rate is None else round(rate, 2),
        "seconds_left": None if rate is None else round(60 * left / rate, 1),
    }


def render_status(status: Mapping[str, Any]) -> str:
    """The state of a study as text."""
    trials, best, rate = status["trials"], status["best"], status["trials_per_minute"]
    lines = [
        f"{status['study']}: {status['finished']} of {status['asked']} trials finished "
        f"({trials['complete']} complete, {trials['pruned']} pruned), "
        f"{trials['running']} running, {trials['fail']} failed"
    ]
    if status["question"]:
        lines.append(status["question"])
    lines.append("best: none yet" if best is None else f"best: {best['score']:.4f} (trial {best['trial']})")
    if rate is not None:
        left = status["seconds_left"]
        lines.append(f"{rate:.1f} trials a minute" + (f", about {_render_seconds(left)} left" if left else ""))
    for reason, count in status["failures"].items():
        lines.append(f"failed {count} times: {reason}" if count > 1 else f"failed once: {reason}")
    for worker in status["workers"]:
        here = " (this machine)" if worker["host"] == socket.gethostname() else ""
        life = "" if worker["alive"] else f", silent for {_render_seconds(worker['silent_seconds'])}"
        lines.append(
            f"worker {worker['host']} {worker['pid']}{here}: trial {worker['trial']}, "
            f"for {_render_seconds(worker['seconds'])}{life}"
        )
    if not status["workers"] and status["finished"] < status["asked"]:
        lines.append("no worker has a trial in hand: start one with wastetune run or wastetune worker")
    return "\n".join(lines)


def _seconds_since(moment: datetime | None, now: float) -> float:
    return 0.0 if moment is None else max(now - moment.timestamp(), 0.0)


def _render_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# The keys of the configuration in the line of a trial.
_SHOWN = ("frozen_depth", "augmentation", "head_layers", "head_units", "learning_rate", "batch_size")
_LISTED = 20  # of the files that were left out


def render_preparation(prepared: Prepared) -> Iterator[str]:
    """Lines about the data and the backbone: pictures, split, what was left out."""
    index, splits, backbone = prepared.index, prepared.splits, prepared.context.backbone
    yield (
        f"{index.folder}: {len(index.pictures):,} pictures in {len(index.classes)} classes, "
        f"{len(splits.train):,} to train, {len(splits.val):,} to validate, {len(splits.test):,} sealed for the test"
    )
    if index.corrected:
        yield f"  corrected by hand: {render_corrected(index.corrected)}"
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
    """A line about a trial that has ended: number, score, seconds, best score so far, key parameters."""
    state, attrs = trial.state.name, read_attrs(trial)
    if state == "FAIL":
        return f"trial {trial.number:3d}  failed    {attrs.failure}"
    best = best_trial(study)
    score = f"{trial.value:.4f}" if state == "COMPLETE" else "pruned"
    so_far = f"best {best.value:.4f} (trial {best.number})" if best else ""
    shown = "  ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key in _SHOWN
        if (value := attrs.config.get(key)) is not None
    )
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    return f"trial {trial.number:3d}  {score:8}  {seconds:5.0f} s  {so_far}  {shown}"
