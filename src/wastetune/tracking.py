"""The MLflow mirror of a study: one parent run per study, one child per trial, safe to repeat.

The SQL study is the truth. A trial that ended is copied as it is, found again by its tags, and never copied
twice; what MLflow lacks, because it was away, the next mirroring brings. Nothing here is in a hurry: `mirroring`
calls it beside the study.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune import locks
from wastetune.database import hide_password, quote_password
from wastetune.errors import UserError
from wastetune.storage import is_void

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna.trial import FrozenTrial

_STUDY = "wastetune.study_id"
_TRIAL = "wastetune.trial"
_REPORT = "wastetune.report"
_PARENT = "mlflow.parentRunId"
_NOTE = "mlflow.note.content"
# Opens the experiment in MLflow's view of model training; it guesses at GenAI else.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
# Under this tag of an experiment, and a study's id, MLflow finds the columns and the order of the study's runs.
VIEW = "mlflow.sharedViewState."
_COLUMNS = (
    "attributes.`Run Name`",
    *(f"metrics.`{name}`" for name in ("best_score", "test_f1_macro", "trainable_parameters")),
    *(f"tags.`{name}`" for name in ("state", "cut")),
    *(
        f"params.`{name}`"
        for name in ("learning_rate", "head_layers", "head_units", "dropout", "augmentation", "frozen_depth")
    ),
)
# MLflow has no word for pruned; the tag `state` has.
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
_DATABASES = ("mysql", "sqlite", "postgresql", "mssql")
_SHOWN = 160  # characters of a reason; those of HTTP go on and on
# A server that does not answer is given up for now after 2 x 10 seconds instead of MLflow's quarter of an hour.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


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
    alone: contextlib.AbstractContextManager[object]  # inside, no other process writes to a store in a file


@dataclass(frozen=True)
class Changes:
    """What a sync did: runs copied and deleted, and those that were right already."""

    copied: int
    deleted: int
    there: int
    model: str | None = None  # what became of the model, if it was registered now


def check_uri(uri: str) -> None:
    """UserError for what can never be a store: no URI, folder, unknown scheme, missing driver, a file of another kind.

    Quick, without MLflow. Whether the store is there and answers is found out when it is opened.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    scheme, uri = _scheme(uri), quote_password(uri)
    try:
        if scheme in _DATABASES:
            make_url(uri).get_dialect().import_dbapi()
            if scheme == "sqlite":
                _check_file(_sqlite_file(uri))
        elif scheme in ("http", "https"):
            _check_server(uri)
        elif scheme in ("", "file"):
            raise ValueError("MLflow keeps runs in a database or on a server: sqlite:///FILE or http://HOST:PORT")
        elif scheme not in ("databricks", *_plugins()):
            raise ValueError(f"MLflow knows no {scheme}://")
    except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
        raise UserError(
            f"the MLflow store cannot be opened ({render_reason(error, uri)}); "
            "check --tracking-uri or MLFLOW_TRACKING_URI"
        ) from error


def check_store(uri: str) -> None:
    """UserError for what can never be a store, for a file that is not there, and a database that does not answer."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    file = None
    with contextlib.suppress(SQLAlchemyError):  # said by check_uri
        file = _sqlite_file(uri) if _scheme(uri) == "sqlite" else None
    if file is not None and not file.exists():
        raise UserError(f"there is no MLflow store {file}; name another --tracking-uri, or make it: wastetune sync")
    check_uri(uri)
    if _scheme(uri) in _DATABASES:
        try:
            create_engine(quote_password(uri), poolclass=NullPool).connect().close()
        except (SQLAlchemyError, OSError) as error:
            raise UserError(
                f"the MLflow store does not answer ({render_reason(error, uri)}); check --tracking-uri"
            ) from error


def render_reason(error: Exception, uri: str) -> str:
    """What went wrong with a store, in a line without its password."""
    line = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
    for given in (uri.rstrip("/"), quote_password(uri).rstrip("/")):
        line = line.replace(given, hide_password(given))
    return line[:_SHOWN]


def open_mirror(
    uri: str, *, study: str, study_id: str, data: DataSource, tags: Mapping[str, str], note: str = ""
) -> Mirror:
    """The study's place in an MLflow store: an experiment per data set, a parent run per study.

    `note` is what MLflow shows as the description of the parent run, in Markdown.

    Takes seconds, for MLflow is imported and a new store gets its tables. Raises whatever a database, a server or
    a network may raise.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for each run on a server
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    from filelock import FileLock
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # not every table it creates
    uri = quote_password(uri)
    file = _sqlite_file(uri) if _scheme(uri) == "sqlite" else None
    artifacts = file.resolve().parent / "artifacts" if file else None  # a server has its own place for them
    if artifacts:
        artifacts.mkdir(parents=True, exist_ok=True)
    alone = FileLock(f"{file}.lock") if file else contextlib.nullcontext()
    with alone, _server_lock(uri):  # two processes must not both create the tables, the experiment or the parent
        if file and not file.exists():
            _create_tables(file)
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
        if runs:  # of several, where processes came at once, everybody takes the same
            parent = min(runs, key=lambda run: (run.info.start_time, run.info.run_id)).info.run_id
        else:
            parent = client.create_run(
                experiment,
                run_name=study,
                tags={**tags, _STUDY: study_id, _TRIAL: "study", "study": study, **({_NOTE: note} if note else {})},
            ).info.run_id
            _log_data(client, parent, data)
        if not found or found.tags.get(f"{VIEW}{study_id}") != _view(study_id):
            client.set_experiment_tag(experiment, f"{VIEW}{study_id}", _view(study_id))
    return Mirror(client, experiment, study_id, parent, data, {**tags, "study": study}, alone)


def mirror_trials(mirror: Mirror, trials: "Iterable[FrozenTrial]", stop: Callable[[], bool] = lambda: False) -> int:
    """Copies those of the trials that ended and that the mirror lacks, until `stop`; gives how many those were."""
    ended = {str(trial.number): trial for trial in trials if _is_mirrored(trial)}
    if not ended:
        return 0
    # A search costs a millisecond per run that it finds; a copy begins when its trial did, so it finds few.
    begun = [_milliseconds(trial.datetime_start) or 0 for trial in ended.values()]
    query = f"tags.`{_STUDY}` = '{mirror.study_id}' and attributes.start_time >= {min(begun)}"
    with mirror.alone:
        runs = [run for run in _search(mirror.client, mirror.experiment, query) if run.data.tags[_TRIAL] in ended]
        for run in runs:
            if run.info.status == "RUNNING":  # a copy that was interrupted
                mirror.client.delete_run(run.info.run_id)
        whole = {run.data.tags[_TRIAL] for run in runs if run.info.status != "RUNNING"}
        copied = 0
        for number, trial in ended.items():
            if number not in whole and not stop():
                _copy_trial(mirror, trial)
                copied += 1
    return copied


def sync_trials(mirror: Mirror, trials: "Sequence[FrozenTrial]") -> Changes:
    """Brings the mirror to the truth: each of the trials that ended is one run, in its state, and nothing else is.

    Copies what is lacking, and deletes copies of what is not in the study, second copies, unfinished ones and those
    in another state. Which of two copies goes is the same for everybody who looks, so two may do this at once.
    """
    ended = {str(trial.number): trial for trial in trials if _is_mirrored(trial)}
    with mirror.alone:
        runs = _search(mirror.client, mirror.experiment, f"tags.`{_STUDY}` = '{mirror.study_id}'")
        whole: dict[str, str] = {}
        deleted = 0
        for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id)):
            number = run.data.tags[_TRIAL]
            if number == "final":
                continue
            if number == "study":
                keep = run.info.run_id == mirror.parent
            else:
                right = number in ended and run.info.status == _STATUS[ended[number].state.name]
                keep = right and number not in whole
            if not keep:
                mirror.client.delete_run(run.info.run_id)
                deleted += 1
            elif number != "study":
                whole[number] = run.info.run_id
                if run.data.tags.get(_PARENT) != mirror.parent:
                    mirror.client.set_tag(run.info.run_id, _PARENT, mirror.parent)
        lacking = [trial for number, trial in ended.items() if number not in whole]
        for trial in lacking:
            _copy_trial(mirror, trial)
        mirror.client.set_terminated(mirror.parent)
    return Changes(copied=len(lacking), deleted=deleted, there=len(whole))


def mirror_final(mirror: Mirror, report: Mapping[str, Any], folder: Path) -> None:
    """Copies the report into one run `final`: scores of the final model, and the files of the results folder.

    Nothing happens where the same report is there already.
    """
    digest = hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()
    query = f"tags.`{_STUDY}` = '{mirror.study_id}' and tags.`{_TRIAL}` = 'final'"
    with mirror.alone:
        there = _search(mirror.client, mirror.experiment, query)
        if any(run.data.tags.get(_REPORT) == digest and run.info.status == "FINISHED" for run in there):
            return
        for old in there:
            mirror.client.delete_run(old.info.run_id)
        _copy_final(mirror, report, folder, digest)


def mirror_exports(mirror: Mirror, metrics: Mapping[str, float], folder: Path) -> None:
    """Copies a folder of exports and what was measured of them to the run `final`, unless that is there.

    UserError where there is no such run. Raises what a database, a server or a network may raise.
    """
    if not metrics:
        return
    if (run := find_final(mirror)) is None:
        raise UserError("the study's report is not there yet; bring it there with `wastetune sync` and export again")
    if metrics.items() <= run.data.metrics.items():
        return
    mirror.client.log_artifacts(run.info.run_id, str(folder), folder.name)
    # After the files: who sees the figures sees them too.
    _log(mirror.client, run.info.run_id, params={}, metrics=[(key, value, 0) for key, value in metrics.items()])


def find_final(mirror: Mirror) -> Any:
    """The MLflow run of the report; None where there is none."""
    query = f"tags.`{_STUDY}` = '{mirror.study_id}' and tags.`{_TRIAL}` = 'final'"
    return next(iter(_search(mirror.client, mirror.experiment, query)), None)


def _is_mirrored(trial: "FrozenTrial") -> bool:
    """Whether it ended; what was begun and never ran is nobody's news."""
    return trial.state.name in _STATUS and not is_void(trial)


def _copy_final(mirror: Mirror, report: Mapping[str, Any], folder: Path, digest: str) -> None:
    client = mirror.client
    tags = {
        **mirror.tags,
        _STUDY: mirror.study_id,
        _TRIAL: "final",
        _REPORT: digest,
        _PARENT: mirror.parent,
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


def _view(study_id: str) -> str:
    """How MLflow's page shows a study: its runs alone, the best first."""
    state = {
        "searchFilter": f"tags.`{_STUDY}` = '{study_id}'",
        "orderByKey": "metrics.`best_score`",
        "orderByAsc": False,
        "selectedColumns": _COLUMNS,
    }
    return json.dumps(state)


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
        for key in ("loss", "score", "accuracy")
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


@contextlib.contextmanager
def _server_lock(uri: str) -> Iterator[None]:
    """Inside, no other wastetune creates MLflow's tables in the same PostgreSQL."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(uri, poolclass=NullPool) if _scheme(uri) == "postgresql" else None
    if engine is not None:
        engine.connect().close()  # a server that is away says so at once; MLflow would ask it for two minutes
    with locks.alone(engine, "mlflow", patience=locks.LONG):
        yield


def _scheme(uri: str) -> str:
    """postgresql of postgresql+psycopg://...; databricks may stand alone."""
    found = re.match(r"([a-z][a-z0-9.-]*)(\+[a-z0-9_]+)?(:|$)", uri)
    return found[1] if found and (found[3] or uri == "databricks") else ""


def _plugins() -> tuple[str, ...]:
    """The schemes that installed packages teach MLflow."""
    from importlib.metadata import entry_points

    return tuple(entry.name for entry in entry_points(group="mlflow.tracking_store"))


def _check_server(uri: str) -> None:
    from urllib.parse import urlsplit

    parts = urlsplit(uri)
    _ = parts.port  # ValueError for one that is no number
    if not parts.hostname:
        raise ValueError("it names no host")


def _sqlite_file(uri: str) -> Path:
    from sqlalchemy.engine import make_url

    return Path(make_url(uri).database or ":memory:")


def _check_file(file: Path) -> None:
    if file.name == ":memory:":
        raise ValueError("it names no file")
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        with file.open("rb") as stream:
            if stream.read(16) not in (b"", b"SQLite format 3\0"):
                raise ValueError(f"{file} is no SQLite database")


def _create_tables(file: Path) -> None:
    """A new store is there whole or not at all; MLflow cannot go on with half of its tables."""
    from mlflow import MlflowClient

    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)  # of a process that was stopped here
    MlflowClient(f"sqlite:///{new}").search_experiments(max_results=1)
    new.replace(file)


def _milliseconds(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
