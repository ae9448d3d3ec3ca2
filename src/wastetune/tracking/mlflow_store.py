"""Opens an MLflow store: creates its tables, the experiment of a data set and the parent run of a study."""

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune.datasets.identity import are_same
from wastetune.files import write_whole
from wastetune.storage import locks
from wastetune.storage.database import quote_password
from wastetune.storage.locks import LONG_TIMEOUT
from wastetune.storage.study import DataSource
from wastetune.tracking.mlflow_uri import sqlite_file, uri_scheme

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

STUDY = "wastetune.study_id"
TRIAL = "wastetune.trial"
PARENT = "mlflow.parentRunId"
ORDER = "wastetune.order"  # by which a study's runs are sorted, descending: the study, its final model, the best trials
DATA = "wastetune.data"  # of an experiment and of a registered model: the sketch of its data set
_NOTE = "mlflow.note.content"
# Opens the experiment in MLflow's view of model training instead of the one of GenAI.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
# The tag of an experiment, before a study's id, that holds the columns and the order in which MLflow shows its runs.
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
_SHORT = 6  # digits of a digest in a name
# A server that does not answer fails after 2 x 10 seconds instead of MLflow's quarter of an hour.
_TIMEOUTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


@dataclass(frozen=True)
class Mirror:
    """An open MLflow store, and the study's parent run in it."""

    client: "MlflowClient"
    experiment: str
    study_id: str
    parent: str
    data: DataSource
    tags: Mapping[str, str]  # of all of the study's runs: backbone, data set, versions
    lock: contextlib.AbstractContextManager[object]  # excludes other processes from a store in a file
    notice: str = ""  # a sentence, where another data set has the name of this one


def open_mirror(
    uri: str, *, study: str, study_id: str, data: DataSource, tags: Mapping[str, str], note: str = ""
) -> Mirror:
    """The study's parent run in the experiment of its data set, both created where they do not exist.

    `note` is the description of the parent run, in Markdown. It takes seconds to import MLflow and to create the tables
    of a new store. Raises what a database, a server or a network may raise.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for each run on a server
    for name, value in _TIMEOUTS.items():
        os.environ.setdefault(name, value)
    from filelock import FileLock
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # not every table it creates
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # nor, before it raises an error, its SQL
    uri = quote_password(uri)
    file = sqlite_file(uri)
    artifacts = file.resolve().parent / "artifacts" if file else None  # a server has its own folder
    if artifacts:
        artifacts.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{file}.lock") if file else contextlib.nullcontext()
    with lock, _server_lock(uri):  # two processes must not both create the tables, the experiment or the parent
        if file and not file.exists():
            _create_tables(file)
        client = MlflowClient(uri)
        name, found = _find_experiment(client, study_id, data)
        experiment = (
            found.experiment_id
            if found
            else client.create_experiment(name, artifact_location=artifacts.as_uri() if artifacts else None, tags=_KIND)
        )
        if data.sketch and not (found and DATA in found.tags):
            client.set_experiment_tag(experiment, DATA, data.sketch)
        runs = search(client, experiment, _parent_query(study_id))
        if runs:  # of several, created at the same time, all processes take the same
            first = min(runs, key=lambda run: (run.info.start_time, run.info.run_id))
            parent = first.info.run_id
            if ORDER not in first.data.tags:  # of an earlier version
                client.set_tag(parent, ORDER, "study")
        else:
            parent = client.create_run(
                experiment,
                run_name=study,
                tags={
                    **tags,
                    STUDY: study_id,
                    TRIAL: "study",
                    ORDER: "study",
                    "study": study,
                    **({_NOTE: note} if note else {}),
                },
            ).info.run_id
            log_data(client, parent, data)
        if not found or found.tags.get(f"{VIEW}{study_id}") != _view(study_id):
            client.set_experiment_tag(experiment, f"{VIEW}{study_id}", _view(study_id))
    notice = "" if name == data.name else render_clash("experiment", data.name, name)
    return Mirror(client, experiment, study_id, parent, data, {**tags, "study": study}, lock, notice)


def _find_experiment(client: "MlflowClient", study_id: str, data: DataSource) -> tuple[str, "Experiment | None"]:
    """The experiment that has the study already, else that of its data set; the name of one to be made, and None."""
    found = {each.name: each for each in search_all(client.search_experiments) if is_name_of(each.name, data.name)}
    if found:
        ids = [each.experiment_id for each in found.values()]
        for run in client.search_runs(ids, _parent_query(study_id)):
            return next((name, each) for name, each in found.items() if each.experiment_id == run.info.experiment_id)
    name = choose_name(data.name, data, {name: each.tags.get(DATA, "") for name, each in found.items()})
    return name, found.get(name)


def choose_name(base: str, data: DataSource, taken: Mapping[str, str]) -> str:
    """The name under which MLflow knows a data set: `base`, or `base-2f3a91` where another data set has that.

    taken: the names of that kind that are there, each with the sketch of its data set; one without a sketch is taken
    for any data set's.
    """
    for name in sorted(taken, key=len):
        if not taken[name] or not data.sketch or are_same(taken[name], data.sketch):
            return name
    return f"{base}-{data.content[:_SHORT]}" if taken else base


def is_name_of(name: str, base: str) -> bool:
    """Whether it is `base`, or `base` with a digest."""
    return re.fullmatch(rf"{re.escape(base)}(-[0-9a-f]{{{_SHORT}}})?", name) is not None


def render_clash(kind: str, base: str, name: str) -> str:
    """That another data set has this one's name, and what to do."""
    return (
        f"MLflow has {kind} {base!r} of other pictures, so this data set has {kind} {name!r}; "
        f"dataset_name in the study's file gives it a name of its own"
    )


def _parent_query(study_id: str) -> str:
    return f"tags.`{STUDY}` = '{study_id}' and tags.`{TRIAL}` = 'study'"


def _view(study_id: str) -> str:
    """The state of MLflow's page for a study: its runs alone, the study itself first and then the best."""
    state = {
        "searchFilter": f"tags.`{STUDY}` = '{study_id}'",
        "orderByKey": f"tags.`{ORDER}`",
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
    """All runs of an experiment that match a query."""
    return search_all(partial(client.search_runs, [experiment], query))


def search_all(ask: Callable[..., Any]) -> list[Any]:
    """The entries of all pages of one of MLflow's searches."""
    found: list[Any] = []
    token: str | None = None
    while True:
        page = ask(max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


@contextlib.contextmanager
def _server_lock(uri: str) -> Iterator[None]:
    """A lock under which one process creates MLflow's tables in a PostgreSQL database."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(uri, poolclass=NullPool) if uri_scheme(uri) == "postgresql" else None
    if engine is not None:
        engine.connect().close()  # fails at once where the server is down; MLflow would retry for two minutes
    with locks.exclusive(engine, "mlflow", timeout=LONG_TIMEOUT):
        yield


def _create_tables(file: Path) -> None:
    """Creates a store in SQLite whole or not at all: MLflow cannot use a file that has only some of its tables."""
    from mlflow import MlflowClient

    def create(part: Path) -> None:
        part.unlink(missing_ok=True)  # left by a process that was killed here
        MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)

    write_whole(file, create, part=file.with_name(f"{file.name}.new"))  # of a fixed name, under the store's lock
