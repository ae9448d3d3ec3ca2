"""The MLflow mirror of a study: one parent run per study, one child per trial, safe to repeat.

The SQL study is the truth. A trial that ended is copied as it is, found again by its tags, and never copied
twice; what MLflow lacks, because it was away, the next mirroring brings.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune.errors import UserError
from wastetune.storage import hide_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna.trial import FrozenTrial

_STUDY = "wastetune.study_id"
_TRIAL = "wastetune.trial"
_REPORT = "wastetune.report"
_PARENT = "mlflow.parentRunId"
# Opens the experiment in MLflow's view of model training; it guesses at GenAI else.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
# MLflow has no word for pruned; the tag `state` has.
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


@dataclass(frozen=True)
class DataSource:
    """The data set as MLflow shows it: name, where it lies, what it holds."""

    name: str
    folder: str
    digest: str
    classes: tuple[str, ...]
    counts: Mapping[str, int]  # pictures in train, val and test


@dataclass(frozen=True)
class Mirror:
    """An open MLflow store, and the study's parent run in it."""

    client: "MlflowClient"
    experiment: str
    study_id: str
    parent: str
    data: DataSource
    tags: Mapping[str, str]  # what all of the study's runs have: backbone, data set, versions


def open_mirror(uri: str, *, study: str, study_id: str, data: DataSource, tags: Mapping[str, str]) -> Mirror:
    """The study's place in an MLflow store: an experiment per data set, a parent run per study.

    UserError where the store cannot be opened.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from filelock import FileLock
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # not every table it creates
    file = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    artifacts = file.resolve().parent / "artifacts" if file else None  # a server has its own place for them
    try:
        if artifacts:
            artifacts.mkdir(parents=True, exist_ok=True)
        # Two processes must not both create the tables or the experiment.
        with FileLock(f"{file}.lock") if file else contextlib.nullcontext():
            client = MlflowClient(uri)
            found = client.get_experiment_by_name(data.name)
            experiment = (
                found.experiment_id
                if found
                else client.create_experiment(
                    data.name, artifact_location=artifacts.as_uri() if artifacts else None, tags=_KIND
                )
            )
        runs = _search(client, experiment, f"tags.`{_STUDY}` = '{study_id}' and tags.`{_TRIAL}` = 'study'")
        if runs:
            parent = runs[0].info.run_id
        else:
            parent = client.create_run(
                experiment, run_name=study, tags={**tags, _STUDY: study_id, _TRIAL: "study", "study": study}
            ).info.run_id
            _log_data(client, parent, data)
    except (MlflowException, SQLAlchemyError, OSError, ImportError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].replace(uri, hide_password(uri))
        raise UserError(
            f"the MLflow store cannot be opened ({reason}); check --tracking-uri or MLFLOW_TRACKING_URI"
        ) from error
    return Mirror(client, experiment, study_id, parent, data, tags)


def mirror_trials(mirror: Mirror, trials: "Iterable[FrozenTrial]") -> int:
    """Copies the ended trials that the mirror lacks; gives how many those were."""
    ended = [trial for trial in trials if trial.state.name in _STATUS and "repeats" not in trial.user_attrs]
    runs = _search(mirror.client, mirror.experiment, f"tags.`{_STUDY}` = '{mirror.study_id}'")
    whole = {run.data.tags[_TRIAL] for run in runs if run.info.status != "RUNNING"}
    for run in runs:
        if run.info.status == "RUNNING" and run.data.tags[_TRIAL] not in ("study", "final"):
            mirror.client.delete_run(run.info.run_id)  # a copy that was interrupted
    missing = [trial for trial in ended if str(trial.number) not in whole]
    for trial in missing:
        _copy_trial(mirror, trial)
    return len(missing)


def mirror_final(mirror: Mirror, report: Mapping[str, Any], folder: Path) -> None:
    """Copies the report into one run `final`: scores of the final model, and the files of the results folder.

    Nothing happens where the same report is there already.
    """
    client = mirror.client
    digest = hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()
    query = f"tags.`{_STUDY}` = '{mirror.study_id}' and tags.`{_TRIAL}` = 'final'"
    there = _search(client, mirror.experiment, query)
    if any(run.data.tags.get(_REPORT) == digest and run.info.status == "FINISHED" for run in there):
        return
    for old in there:
        client.delete_run(old.info.run_id)
    tags = {
        **mirror.tags,
        _STUDY: mirror.study_id,
        _TRIAL: "final",
        _REPORT: digest,
        _PARENT: mirror.parent,
        "study": report["study"],
    }
    run = client.create_run(mirror.experiment, run_name=f"{report['study']} final", tags=tags).info.run_id
    scores = [
        (f"{prefix}_{key}", value, 0)
        for prefix in ("test", "default_test")
        for key, value in report[prefix].items()
        if isinstance(value, float)
    ]
    _log(client, run, params=report["best"]["config"], metrics=scores)
    _log_data(client, run, mirror.data)
    client.log_artifacts(run, str(folder))
    client.set_terminated(run)
    best = [("best_score", report["best"]["score"], 0)]
    best += [(f"test_{key}", report["test"][key], 0) for key in ("accuracy", "f1_macro")]
    _log(client, mirror.parent, params={}, metrics=best)
    client.set_terminated(mirror.parent)


def _copy_trial(mirror: Mirror, trial: "FrozenTrial") -> None:
    client, attrs = mirror.client, trial.user_attrs
    begun, ended = trial.datetime_start, trial.datetime_complete
    tags = {
        **mirror.tags,
        _STUDY: mirror.study_id,
        _TRIAL: str(trial.number),
        _PARENT: mirror.parent,
        "state": {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}[trial.state.name],
        "cut": attrs.get("cut", ""),
        "seed": str(attrs.get("seed", "")),
        **({"failure": attrs["failure"]} if "failure" in attrs else {}),
        **({"default": "true"} if attrs.get("default") else {}),
    }
    run = client.create_run(
        mirror.experiment,
        start_time=_milliseconds(begun),
        run_name=f"trial {trial.number}",
        tags={key: value for key, value in tags.items() if value},
    ).info.run_id
    curve = [
        (key, float(epoch[key]), epoch["number"])
        for epoch in attrs.get("history", ())
        for key in ("loss", "score", "accuracy", "seconds")
    ]
    single = [
        (key, float(value), 0)
        for key, value in (
            ("best_score", trial.value),
            ("best_epoch", attrs.get("best_epoch")),
            ("trainable_parameters", attrs.get("trainable_parameters")),
            ("duration_seconds", trial.duration.total_seconds() if trial.duration else None),
        )
        if value is not None
    ]
    _log(client, run, params=attrs.get("config", {}), metrics=curve + single)
    _log_data(client, run, mirror.data)
    client.set_terminated(run, status=_STATUS[trial.state.name], end_time=_milliseconds(ended))


def _log(
    client: "MlflowClient", run: str, *, params: Mapping[str, Any], metrics: Iterable[tuple[str, float, int]]
) -> None:
    import time

    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    batch = [Metric(key, value, now, step) for key, value, step in metrics]
    for start in range(0, max(len(batch), 1), 1000):  # MLflow's limit per call
        first = [Param(key, str(value)) for key, value in params.items()] if start == 0 else []
        client.log_batch(run, metrics=batch[start : start + 1000], params=first)


def _log_data(client: "MlflowClient", run: str, data: DataSource) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = json.dumps({"classes": list(data.classes), **data.counts})
    source = json.dumps({"uri": data.folder})
    entity = Dataset(name=data.name, digest=data.digest[:36], source_type="local", source=source, profile=profile)
    client.log_inputs(run, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])


def _search(client: "MlflowClient", experiment: str, query: str) -> list[Any]:
    found: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], query, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _milliseconds(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
