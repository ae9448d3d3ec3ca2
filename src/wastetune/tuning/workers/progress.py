"""The progress of a study: trials by state, workers, best score so far, trials per minute, time left."""

import math
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from wastetune.console import Console, Row
from wastetune.data.corrections import render_corrected
from wastetune.data.index import contradictions
from wastetune.evaluation.metrics import METRICS
from wastetune.evaluation.objectives import Goals, render_brief, render_costs
from wastetune.formatting import render_count, render_rough_duration
from wastetune.search.choice import describe_search
from wastetune.search.history import divide_trials
from wastetune.settings import lease_seconds
from wastetune.storage.budget import is_void, only_finished, was_interrupted
from wastetune.storage.records import (
    TrialRecord,
    find_front,
    read_attrs,
    render_interruption,
    trial_score,
    trial_seconds,
)
from wastetune.storage.study import (
    best_trial,
    get_study_attr,
    read_goals,
    read_study_info,
    read_trials,
    records_of,
)
from wastetune.training.config import BACKBONE, HEAD_PREFIX
from wastetune.training.fit import Epoch
from wastetune.tuning.prepare import Prepared

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_STATES = ("COMPLETE", "PRUNED", "RUNNING", "FAIL")
_INTERRUPTIONS = 5  # listed
_POINTS = 5  # of a Pareto front, listed
_JUMP = 60  # times the usual seconds from one trial to the next
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
    ended = records_of(trials)
    interrupted = [record for record in ended if record.state == "interrupted"]
    best, info, goals = best_trial(study), read_study_info(study), read_goals(study)
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
    step = seconds_per_trial(finished)
    return {
        "study": study.study_name,
        "question": info.question if info else "",
        "asked": asked,
        "finished": len(finished),
        "trials": {state.lower(): counts[state] for state in _STATES}
        | {"fail": counts["FAIL"] - len(interrupted), "interrupted": len(interrupted)},
        "failures": dict(Counter(record.failure or "?" for record in ended if record.state == "failed")),
        "interruptions": [
            {"trial": record.number, "reason": record.failure, "again": record.again} for record in interrupted
        ],
        "metric": info.metric if info else "",
        "search": describe_search(info.tags) if info else "",
        "best": None
        if best is None
        else {
            "trial": best.number,
            "score": trial_score(best),
            "config": read_attrs(best).config,
            "origin": read_attrs(best).origin,
            **({"costs": dict(read_attrs(best).costs)} if goals.costs else {}),
        },
        **({"backbones": [each.to_dict() for each in divided]} if (divided := divide_trials(trials)) else {}),
        **_describe_goals(goals, ended),
        "workers": workers,
        "trials_per_minute": None if step is None else round(60 / step, 2),
        "seconds_left": None if step is None else round(step * left, 1),
    }


def _describe_goals(goals: Goals, ended: Sequence[TrialRecord]) -> dict[str, Any]:
    """The limits and the Pareto front of a study with several objectives."""
    if not goals.costs:
        return {}
    front = [{"trial": each.number, "score": each.score, "costs": each.costs} for each in find_front(ended, goals)]
    return {"limits": dict(goals.limits), "front": front}


def seconds_per_trial(trials: "Sequence[FrozenTrial]") -> float | None:
    """Seconds from one finished trial to the next, a mean of the last 20; None before two have finished.

    None counts for longer than it ran, so that the time between two runs of a study does not count; and a step of many
    times the usual one is a jump of the clock.
    """
    ends = sorted(
        (trial.datetime_complete, trial_seconds(trial)) for trial in only_finished(trials) if trial.datetime_complete
    )[-_RECENT:]
    gaps = [((end - before).total_seconds(), ran) for (before, _), (end, ran) in pairwise(ends)]
    steps = [min(gap, ran or gap) for gap, ran in gaps]
    usual = [step for step in steps if step <= _JUMP * median(steps)]
    return sum(usual) / len(usual) if sum(usual) > 0 else None


def render_status(status: Mapping[str, Any]) -> str:
    """The state of a study as text."""
    trials, best, rate = status["trials"], status["best"], status["trials_per_minute"]
    lines = [
        f"{status['study']}: {status['finished']} of {status['asked']} trials finished "
        f"({trials['complete']} complete, {trials['pruned']} pruned), "
        f"{trials['running']} running, {trials['fail']} failed"
        + (f", {trials['interrupted']} interrupted" if trials["interrupted"] else "")
    ]
    if status["question"]:
        lines.append(status["question"])
    if status["search"]:
        lines.append(status["search"])
    name = f" {METRICS[status['metric']][0]}" if status["metric"] else ""
    if best is None:
        lines.append("best: none yet" + (" within the limits" if status.get("limits") else ""))
    else:
        origin = f", from {best['origin']}" if best["origin"] else ""
        costs = f", {render_costs(best['costs'], status['limits'])}" if "costs" in best else ""
        lines.append(f"best{name}: {best['score']:.4f} (trial {best['trial']}{origin}){costs}")
    for each in status.get("backbones", ()):
        score = "no score yet" if each["score"] is None else f"best {each['score']:.4f} (trial {each['best']})"
        spent = render_rough_duration(each["seconds"] + each["activation_seconds"])
        lines.append(f"  {each['name']}: {render_count(each['trials'], 'trial')} in {spent}, {score}")
    if front := status.get("front"):
        points = [f"{each['score']:.3f} at {render_brief(each['costs'])} (trial {each['trial']})" for each in front]
        lines.append(f"Pareto front: {'; '.join(points[:_POINTS])}" + ("; ..." if len(points) > _POINTS else ""))
    if rate is not None:
        left = status["seconds_left"]
        lines.append(f"{rate:.1f} trials a minute" + (f", about {render_rough_duration(left)} left" if left else ""))
    for reason, count in status["failures"].items():
        lines.append(f"failed {count} times: {reason}" if count > 1 else f"failed once: {reason}")
    told = [render_interruption(each["trial"], each["reason"], each["again"]) for each in status["interruptions"]]
    if len(told) > _INTERRUPTIONS:
        lines.append(f"{len(told) - _INTERRUPTIONS} earlier trials were interrupted")
    lines += told[-_INTERRUPTIONS:]
    for worker in status["workers"]:
        here = " (this machine)" if worker["host"] == socket.gethostname() else ""
        life = "" if worker["alive"] else f", silent for {render_rough_duration(worker['silent_seconds'])}"
        lines.append(
            f"worker {worker['host']} {worker['pid']}{here}: trial {worker['trial']}, "
            f"for {render_rough_duration(worker['seconds'])}{life}"
        )
    if not status["workers"] and status["finished"] < status["asked"]:
        lines.append("no worker has a trial in hand: start one with wastetune run or wastetune worker")
    return "\n".join(lines)


def _seconds_since(moment: datetime | None, now: float) -> float:
    return 0.0 if moment is None else max(now - moment.timestamp(), 0.0)


# The keys of the configuration in the line of a trial, as far as there is room.
_SHOWN = ("frozen_depth", "augmentation", "head_layers", "head_units", "learning_rate", "batch_size")
_STARTING = "first epoch"
_LEAST = 12  # characters of the name of a backbone in the line of a trial
_LISTED = 20  # of the files that were left out


def render_preparation(prepared: Prepared) -> Iterator[str]:
    """Lines about the data and the backbone: pictures, split, what was left out."""
    index, splits = prepared.index, prepared.splits
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
        count = render_count(len(splits.left_out), "picture")
        yield f"  left out of training: {count} like one of the data set's own test"
    for group in contradictions(index):
        yield f"  the same picture in two classes: {', '.join(picture.path for picture in group)}"
    for each in (prepared.context, *prepared.context.others):
        backbone = each.backbone
        cuts = render_count(len(backbone.cuts), "cut") if backbone.onnx else f"{len(backbone.cuts)} cuts"
        yield f"{backbone.name} at {backbone.size} px, weights {backbone.digest[:8]}, {cuts}"
        if backbone.left_off:
            yield f"  left off, as its classification head: {', '.join(backbone.left_off[-_LISTED:])}"


def render_trial(trial: "FrozenTrial", best: "FrozenTrial | None", metric: str, width: int = 80) -> str:
    """A line about a trial that has ended: number, score, seconds, best score so far.

    As many of the key parameters that were searched follow as the width has room for. metric: a key of METRICS.
    """
    state, attrs = trial.state.name, read_attrs(trial)
    if state == "FAIL":
        what = "interrupted" if was_interrupted(trial) else "failed"
        return f"trial {trial.number:3d}  {what}" + (f": {attrs.failure}" if attrs.failure != what else "")
    name = METRICS[metric][0]
    value = trial_score(trial)
    score = (
        f"{name} {value:.4f}"
        if state == "COMPLETE"
        else "pruned"
        if attrs.history or not attrs.costs
        else "not trained"
    )
    score += f", {render_brief(attrs.costs)}" if attrs.costs else ""
    so_far = f"  best {trial_score(best):.4f} (trial {best.number})" if best else ""
    line = f"trial {trial.number:3d}  {score:{len(name) + 7}}  {trial_seconds(trial):5.0f} s{so_far}"
    line += f"  from {attrs.origin}" if attrs.origin else ""
    if backbone := attrs.config.get(BACKBONE):
        room = max(width - len(line) - 2, _LEAST)  # the ends of names differ more than their beginnings
        line += f"  {backbone}" if len(backbone) <= room else f"  …{backbone[1 - room :]}"
    for key in (*_SHOWN, *(key for key in trial.params if key.startswith(HEAD_PREFIX))):
        value = attrs.config.get(key)
        if key in trial.params and value is not None:
            word = f"  {key} {value:.3g}" if isinstance(value, float) else f"  {key} {value}"
            if len(line + word) > width:
                break
            line += word
    return line


@contextmanager
def show_trial(console: Console, metric: str, number: int, epochs: int) -> Iterator[Callable[[Epoch], None]]:
    """A row about a trial while it runs; the value is a function that takes each epoch."""
    what, seconds = f"trial {number}", deque[float](maxlen=3)  # the first epoch compiles, the last ones tell
    with console.rows() as show:
        show([Row(what, 0, epochs, _STARTING)])

        def on_epoch(epoch: Epoch) -> None:
            seconds.append(epoch.seconds)
            left = (epochs - epoch.number) * sum(seconds) / len(seconds)
            state = _epoch_state(metric, epoch.number, epochs, epoch.score)
            show([Row(what, epoch.number, epochs, state, left)])

        yield on_epoch


@contextmanager
def show_study(
    console: Console, metric: str, asked: int, *, running: bool, end: float = math.inf
) -> Iterator[Callable[[Sequence["FrozenTrial"]], None]]:
    """A row about a study until it has `asked` trials, and, with `running`, one about each running trial.

    `end` is when it ends though it has fewer, by `time.monotonic`.
    The value is a function that takes all trials of the study, now and whenever some may have changed.
    """
    rows: dict[int, Row] = {}
    seen: dict[int, tuple[float, int]] = {}  # number of a running trial -> time and epoch when it was first seen
    whole = Row("", -1, asked)
    with console.rows() as show:

        def on_change(trials: Sequence["FrozenTrial"]) -> None:
            nonlocal whole
            finished = only_finished(trials)
            if whole.done != min(len(finished), asked):
                whole = _study_row(metric, asked, finished, end)
            at_work = [trial for trial in trials if trial.state.name == "RUNNING"] if running else []
            for trial in at_work:
                epoch = max(trial.intermediate_values, default=0)
                if trial.number not in rows or rows[trial.number].done != epoch:
                    since = seen.setdefault(trial.number, (time.monotonic(), epoch))
                    rows[trial.number] = _running_row(metric, trial, epoch, since)
            show([whole, *(rows[trial.number] for trial in at_work)])

        yield on_change


def _study_row(metric: str, asked: int, finished: Sequence["FrozenTrial"], end: float) -> Row:
    """The row of a study, with the time left as `describe_status` tells it, or until it ends if that is sooner."""
    count, step = len(finished), seconds_per_trial(finished)
    left = min(math.inf if step is None else step * max(asked - count, 0), end - time.monotonic())
    complete = [
        trial
        for trial in finished
        if trial.state.name == "COMPLETE" and max(trial.constraints.values(), default=0) <= 0
    ]
    scores = [(trial_score(trial), -trial.number) for trial in complete]
    best, number = max(scores, default=(None, 0))
    state = "" if best is None else f"best {METRICS[metric][0]} {best:.4f} (trial {-number})"
    known = left if math.isfinite(left) else None
    return Row(f"{min(count, asked)} of {asked} trials", min(count, asked), asked, state, known)


def _running_row(metric: str, trial: "FrozenTrial", epoch: int, since: tuple[float, int]) -> Row:
    """The row of a trial that runs in another process, after the last epoch that it has reported.

    The time left is from the epochs since it was first seen here: its dates are those of another clock.
    """
    epochs = int(read_attrs(trial).config.get("epochs", 0))
    if not epoch or not epochs:
        return Row(f"trial {trial.number}", 0, epochs or None, _STARTING)
    begin, before = since
    left = (time.monotonic() - begin) * (epochs - epoch) / (epoch - before) if epoch > before else None
    state = _epoch_state(metric, epoch, epochs, trial.intermediate_values[epoch])
    return Row(f"trial {trial.number}", epoch, epochs, state, left)


def _epoch_state(metric: str, epoch: int, epochs: int, score: float) -> str:
    return f"epoch {epoch} of {epochs}, {METRICS[metric][0]} {score:.4f}"
