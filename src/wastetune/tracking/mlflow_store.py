"""The MLflow store: its URI is checked, its tables, experiment and study run are created."""

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune.errors import UserError
from wastetune.storage import locks
from wastetune.storage.database import hide_password, quote_password
from wastetune.storage.locks import LONG_TIMEOUT

if TYPE_CHECKING:
    from mlflow import MlflowClient

STUDY = "wastetune.study_id"
TRIAL = "wastetune.trial"
PARENT = "mlflow.parentRunId"
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
    lock: contextlib.AbstractContextManager[object]  # inside, no other process writes to a store in a file


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
    lock = FileLock(f"{file}.lock") if file else contextlib.nullcontext()
    with lock, _server_lock(uri):  # two processes must not both create the tables, the experiment or the parent
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
        runs = search(client, experiment, f"tags.`{STUDY}` = '{study_id}' and tags.`{TRIAL}` = 'study'")
        if runs:  # of several, where processes came at once, everybody takes the same
            parent = min(runs, key=lambda run: (run.info.start_time, run.info.run_id)).info.run_id
        else:
            parent = client.create_run(
                experiment,
                run_name=study,
                tags={**tags, STUDY: study_id, TRIAL: "study", "study": study, **({_NOTE: note} if note else {})},
            ).info.run_id
            log_data(client, parent, data)
        if not found or found.tags.get(f"{VIEW}{study_id}") != _view(study_id):
            client.set_experiment_tag(experiment, f"{VIEW}{study_id}", _view(study_id))
    return Mirror(client, experiment, study_id, parent, data, {**tags, "study": study}, lock)


def _view(study_id: str) -> str:
    """How MLflow's page shows a study: its runs alone, the best first."""
    state = {
        "searchFilter": f"tags.`{STUDY}` = '{study_id}'",
        "orderByKey": "metrics.`best_score`",
        "orderByAsc": False,
        "selectedColumns": _COLUMNS,
    }
    return json.dumps(state)


def log_data(client: "MlflowClient", run: str, data: DataSource) -> None:
    """Logs the data set as an input of a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = json.dumps({"classes": list(data.classes), **data.counts})
    source = json.dumps({"uri": data.folder})
    entity = Dataset(name=data.name, digest=data.digest[:36], source_type="local", source=source, profile=profile)
    client.log_inputs(run, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])


def search(client: "MlflowClient", experiment: str, query: str) -> list[Any]:
    """All runs of an experiment that a query finds, page after page."""
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
    with locks.exclusive(engine, "mlflow", timeout=LONG_TIMEOUT):
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
