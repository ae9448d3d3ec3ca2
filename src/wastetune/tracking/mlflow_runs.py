"""Copies a study to MLflow: one parent run per study and one child run per trial.

The study in SQL is authoritative. A copy is found again by its tags, so that no trial is copied twice and the next call
copies what an unavailable store missed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune.errors import UserError
from wastetune.report.results import Report
from wastetune.storage.budget import is_void
from wastetune.storage.records import STATES, read_attrs, trial_score, trial_seconds
from wastetune.tracking.mlflow_store import ORDER, PARENT, STUDY, TRIAL, Mirror, log_data, search

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna.trial import FrozenTrial


_REPORT = "wastetune.report"
# MLflow shows a red cross for KILLED; the tag `state` tells pruned trials from complete ones.
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}


@dataclass(frozen=True)
class Changes:
    """The result of a sync: the numbers of runs copied, deleted and left as they were."""

    copied: int
    deleted: int
    there: int
    model: str | None = None  # a sentence on the model, if it was registered now
    notice: str = ""  # a sentence, where another data set has the name of this one


def mirror_trials(mirror: Mirror, trials: "Iterable[FrozenTrial]", stop: Callable[[], bool] = lambda: False) -> int:
    """Copies the trials that have ended and that the mirror lacks, until `stop`; the number of copies."""
    ended = {str(trial.number): trial for trial in trials if _is_mirrored(trial)}
    if not ended:
        return 0
    # A search costs a millisecond per run found. Copies keep the start time of their trial, so few are found.
    begun = [_milliseconds(trial.datetime_start) or 0 for trial in ended.values()]
    query = f"tags.`{STUDY}` = '{mirror.study_id}' and attributes.start_time >= {min(begun)}"
    with mirror.lock:
        runs = [run for run in search(mirror.client, mirror.experiment, query) if run.data.tags[TRIAL] in ended]
        for run in runs:
            if run.info.status == "RUNNING":  # a copy that was interrupted
                mirror.client.delete_run(run.info.run_id)
        whole = {run.data.tags[TRIAL] for run in runs if run.info.status != "RUNNING"}
        copied = 0
        for number, trial in ended.items():
            if number not in whole and not stop():
                _copy_trial(mirror, trial)
                copied += 1
    return copied


def sync_trials(mirror: Mirror, trials: "Sequence[FrozenTrial]") -> Changes:
    """Makes the runs of the mirror match the trials: one run for each trial that has ended, in the same state.

    Copies missing trials and deletes copies of other trials, second and unfinished copies, and copies in another state;
    what an earlier version wrote otherwise in a copy is changed. Of two copies every process deletes the same one, so
    two syncs may run at once.
    """
    ended = {str(trial.number): trial for trial in trials if _is_mirrored(trial)}
    with mirror.lock:
        runs = search(mirror.client, mirror.experiment, f"tags.`{STUDY}` = '{mirror.study_id}'")
        whole: dict[str, str] = {}
        deleted = 0
        for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id)):
            number = run.data.tags[TRIAL]
            if number == "final":
                continue
            if number == "study":
                keep = run.info.run_id == mirror.parent
            else:
                keep = number in ended and number not in whole and _is_copy(run, ended[number])
            if not keep:
                mirror.client.delete_run(run.info.run_id)
                deleted += 1
            elif number != "study":
                whole[number] = run.info.run_id
                _amend(mirror, run, ended[number])
                if run.data.tags.get(PARENT) != mirror.parent:
                    mirror.client.set_tag(run.info.run_id, PARENT, mirror.parent)
        missing = [trial for number, trial in ended.items() if number not in whole]
        for trial in missing:
            _copy_trial(mirror, trial)
        mirror.client.set_terminated(mirror.parent)
    return Changes(copied=len(missing), deleted=deleted, there=len(whole))


def _is_copy(run: Any, trial: "FrozenTrial") -> bool:
    """Whether a run is a whole copy of the trial in its present state."""
    return bool(run.info.status != "RUNNING" and run.data.tags.get("state") == STATES[trial.state.name])


def _amend(mirror: Mirror, run: Any, trial: "FrozenTrial") -> None:
    """Changes a copy of an earlier version: the status of pruned trials, and its place in the order."""
    order, status = _order(trial), _STATUS[trial.state.name]
    if order and ORDER not in run.data.tags:
        mirror.client.set_tag(run.info.run_id, ORDER, order)
    if run.info.status != status:
        mirror.client.set_terminated(run.info.run_id, status=status, end_time=run.info.end_time)


def _order(trial: "FrozenTrial") -> str:
    """The tag by which a study's runs are sorted: greater for a better trial, and for study and final model greater."""
    score = trial_score(trial)
    return "" if score is None else f"{score:.6f}"


def mirror_final(mirror: Mirror, report: Report, folder: Path) -> None:
    """Copies the report to the run `final`: scores of the final model, and the files of the results folder.

    Nothing happens where the run has the same report already.
    """
    digest = hashlib.sha256(json.dumps(report.to_dict(), sort_keys=True).encode()).hexdigest()
    query = f"tags.`{STUDY}` = '{mirror.study_id}' and tags.`{TRIAL}` = 'final'"
    with mirror.lock:
        there = search(mirror.client, mirror.experiment, query)
        if any(run.data.tags.get(_REPORT) == digest and run.info.status == "FINISHED" for run in there):
            return
        for old in there:
            mirror.client.delete_run(old.info.run_id)
        _copy_final(mirror, report, folder, digest)


def mirror_exports(mirror: Mirror, metrics: Mapping[str, float], folder: Path) -> None:
    """Copies a folder of exports and their metrics to the run `final`, unless it has them.

    UserError where there is no such run. Raises what a database, a server or a network may raise.
    """
    if not metrics:
        return
    if (run := find_final(mirror)) is None:
        raise UserError("the study's report is not there yet; bring it there with `wastetune sync` and export again")
    if {key: _in_four_digits(value) for key, value in metrics.items()}.items() <= run.data.metrics.items():
        return
    mirror.client.log_artifacts(run.info.run_id, str(folder), folder.name)
    # After the files, because the metrics mark a complete copy.
    _log(mirror.client, run.info.run_id, params={}, metrics=[(key, value, 0) for key, value in metrics.items()])


def find_final(mirror: Mirror) -> Any:
    """The MLflow run of the report; None where there is none."""
    query = f"tags.`{STUDY}` = '{mirror.study_id}' and tags.`{TRIAL}` = 'final'"
    return next(iter(search(mirror.client, mirror.experiment, query)), None)


def _is_mirrored(trial: "FrozenTrial") -> bool:
    """Whether the trial has ended, and ran at all."""
    return trial.state.name in _STATUS and not is_void(trial)


def _copy_final(mirror: Mirror, report: Report, folder: Path, digest: str) -> None:
    client = mirror.client
    tags = {
        **mirror.tags,
        STUDY: mirror.study_id,
        TRIAL: "final",
        _REPORT: digest,
        PARENT: mirror.parent,
        ORDER: "final",
    }
    run = client.create_run(mirror.experiment, run_name=f"{report.study} final", tags=tags).info.run_id
    scores = [
        (f"{prefix}_{key}", value, 0)
        for prefix, part in (("test", report.test), ("default_test", report.default_test))
        for key, value in vars(part).items()
        if isinstance(value, float)
    ]
    costs = report.final.costs.items() if report.final else ()
    _log(client, run, params=report.best.config, metrics=scores + [(key, value, 0) for key, value in costs])
    log_data(client, run, mirror.data)
    client.log_artifacts(run, str(folder))
    client.set_terminated(run)
    best = {
        "best_score": report.best.score,
        "test_accuracy": report.test.accuracy,
        "test_f1_macro": report.test.f1_macro,
    }
    _log(client, mirror.parent, params={}, metrics=[(key, value, 0) for key, value in best.items()])
    client.set_terminated(mirror.parent)


def _copy_trial(mirror: Mirror, trial: "FrozenTrial") -> None:
    client, attrs = mirror.client, read_attrs(trial)
    begun, ended = trial.datetime_start, trial.datetime_complete
    if begun and ended:  # a jump of the clock would show here
        ended = begun + timedelta(seconds=trial_seconds(trial))
    tags = {
        **mirror.tags,
        STUDY: mirror.study_id,
        TRIAL: str(trial.number),
        PARENT: mirror.parent,
        "state": STATES[trial.state.name],
        "cut": attrs.cut,
        "seed": None if attrs.seed is None else str(attrs.seed),
        "failure": attrs.failure,
        "default": "true" if attrs.default else None,
        "origin": attrs.origin,
        ORDER: _order(trial),
    }
    run = client.create_run(
        mirror.experiment,
        start_time=_milliseconds(begun),
        run_name=f"trial {trial.number}",
        tags={key: value for key, value in tags.items() if value},
    ).info.run_id
    curve = [
        (key, float(epoch[key]), epoch["number"]) for epoch in attrs.history for key in ("loss", "score", "accuracy")
    ]
    single = [
        (key, float(value), 0)
        for key, value in (
            ("best_score", trial_score(trial)),
            *attrs.costs.items(),
            ("best_epoch", attrs.best_epoch),
            ("trainable_parameters", attrs.trainable_parameters),
            ("duration_seconds", trial_seconds(trial) if ended else None),
        )
        if value is not None
    ]
    _log(client, run, params=attrs.config, metrics=curve + single)
    log_data(client, run, mirror.data)
    client.set_terminated(run, status=_STATUS[trial.state.name], end_time=_milliseconds(ended))


def _log(
    client: "MlflowClient", run: str, *, params: Mapping[str, Any], metrics: Iterable[tuple[str, float, int]]
) -> None:
    import time

    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    batch = [Metric(key, _in_four_digits(value), now, step) for key, value, step in metrics]
    for start in range(0, max(len(batch), 1), 1000):  # MLflow's limit per call
        first = [Param(key, _render_param(value)) for key, value in params.items()] if start == 0 else []
        client.log_batch(run, metrics=batch[start : start + 1000], params=first)


def _in_four_digits(value: float) -> float:
    """MLflow shows all digits of a number; the study's database has them."""
    return float(f"{value:.4g}") if abs(value) < 1000 else float(round(value))


def _render_param(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _milliseconds(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
