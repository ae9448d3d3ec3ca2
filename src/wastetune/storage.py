"""The SQL storage: open it, create or join a study, count the budget.

The contract, on SQLite and on every other database that Optuna speaks:

- The SQL study is the truth. What is told stays told; MLflow and the report are made from it.
- A study belongs to one question: its fingerprint (study file, space, data and split, weights, version) is
  stored with it, and whoever comes with another one is refused and told what differs.
- The budget counts finished trials, complete or pruned. A failed trial is FAIL with its reason in the user
  attribute `failure`; it has no value and uses up no budget.
- Trial 0 is the default configuration. It carries the user attribute `default`, and so does the trial that
  takes its place where it failed.
- A trial in hand carries `owner`, the host and process that runs it, so that one whose process is gone is
  noticed by whoever comes next to the same machine.
- On SQLite every transaction takes the write lock at its start (Optuna reads, then writes; two readers that
  both go on to write would claim the same trial), and readers are not blocked (WAL).
"""

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from filelock import FileLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from wastetune.errors import UserError
from wastetune.parameters import Value
from wastetune.space import TrialConfig

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_CLAIMED_WITHIN = timedelta(minutes=1)
_CLOCK_STEP = 10.0  # seconds; a process's start is told by the system's clock, which may be set


def open_storage(url: str) -> "optuna.storages.RDBStorage":
    """Optuna's storage at a database URL; tables are made on first use.

    UserError for a URL that is none, a missing driver and a database that does not answer.
    """
    import optuna
    from optuna.storages import RDBStorage

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # wastetune says itself what happens
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise UserError(
            f"{hide_password(url)} is not a database URL; write sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
        ) from None
    shown = hide_password(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    first_use: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if sqlite and parsed.database and parsed.database != ":memory:":
        file = Path(parsed.database)
        if not file.parent.is_dir():
            raise UserError(f"the folder of the study database {file} does not exist; create {file.parent}")
        first_use = FileLock(f"{file}.lock")  # two processes must not both create the tables
    try:
        with first_use:
            storage = RDBStorage(
                url.replace("{", "{{").replace("}", "}}"),  # Optuna formats the URL
                engine_kwargs={} if sqlite else {"pool_pre_ping": True},
            )
            if sqlite:
                _lock_on_begin(storage.engine)
    except ImportError as error:
        raise UserError(
            f"the driver for {shown} is not installed ({error}); for PostgreSQL: pip install 'wastetune[postgres]'"
        ) from error
    except (SQLAlchemyError, OSError, RuntimeError) as error:
        reason = (str(getattr(error, "orig", None) or error).strip().splitlines() or ["no answer"])[0]
        raise UserError(f"the study database {shown} cannot be opened: {reason.replace(url, shown)}") from error
    return storage


def hide_password(url: str) -> str:
    """A database or tracking URL that may be shown."""
    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        shown = re.sub(r"(://[^/:@]*:).*@", r"\1***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", shown)


def open_study(
    storage: "optuna.storages.RDBStorage",
    name: str,
    fingerprint: Mapping[str, str],
    default: Mapping[str, Value],
) -> "optuna.Study":
    """The study of that name, created if it is not there, with the default configuration first in line.

    UserError where it was begun with another fingerprint, naming what differs.
    """
    import optuna

    study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    begun_with = study.user_attrs.get("fingerprint")
    if begun_with is None:
        study.set_user_attr("id", secrets.token_hex(8))  # one name may be used again after a study was deleted
        study.set_user_attr("fingerprint", dict(fingerprint))
    elif differing := [key for key in fingerprint if begun_with.get(key) != fingerprint[key]]:
        raise UserError(
            f"study {name!r} was begun with another {', '.join(differing)} "
            f"({'; '.join(f'{key}: then {begun_with.get(key)}, now {fingerprint[key]}' for key in differing)}); "
            "copy the study's file to a new name, or give another --storage"
        )
    queue_default(study, default)
    return study


def queue_default(study: "optuna.Study", default: Mapping[str, Value]) -> None:
    """Puts the default configuration in line unless it has run, runs or waits."""
    from optuna.trial import TrialState

    alive = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING))
    if not any(trial.user_attrs.get("default") for trial in alive):
        study.enqueue_trial(dict(default), user_attrs={"default": True})


def finished_trials(study: "optuna.Study") -> "list[FrozenTrial]":
    """The trials that the budget counts: complete or pruned."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def find_twin(study: "optuna.Study", config: TrialConfig) -> int | None:
    """The number of a trial that has run or is running this very configuration."""
    from optuna.trial import TrialState

    wanted = config.model_dump()
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    for trial in study.get_trials(deepcopy=False, states=states):
        if trial.user_attrs.get("config") == wanted:
            return trial.number
    return None


def claim(trial: "optuna.Trial") -> None:
    """Marks a trial as in this process's hands."""
    trial.set_user_attr("owner", {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())})


def fail(study: "optuna.Study", number: int, reason: str) -> None:
    """Tells a running trial FAIL, with its reason."""
    from optuna.trial import TrialState

    trial = study.get_trials(deepcopy=False)[number]
    study._storage.set_trial_user_attr(trial._trial_id, "failure", reason)
    study.tell(number, state=TrialState.FAIL)


def fail_lost(study: "optuna.Study") -> list[int]:
    """Tells FAIL to the running trials whose process on this machine is gone; gives their numbers."""
    from optuna.trial import TrialState

    lost = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get("owner")
        if owner is None:  # lost in the instant between being asked for and being claimed
            lost_now = trial.datetime_start is not None and datetime.now() - trial.datetime_start > _CLAIMED_WITHIN
        else:
            lost_now = owner["host"] == socket.gethostname() and not _runs(owner)
        if lost_now:
            fail(study, trial.number, "worker lost")
            lost.append(trial.number)
    return lost


def best_trial(study: "optuna.Study") -> "FrozenTrial | None":
    """The complete trial with the highest score, the earliest of equals; None before there is one."""
    complete = _complete(study)
    return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)


def default_trial(study: "optuna.Study") -> "FrozenTrial | None":
    """The complete trial that ran the default configuration; None before there is one."""
    return next((trial for trial in _complete(study) if trial.user_attrs.get("default")), None)


def _complete(study: "optuna.Study") -> "list[FrozenTrial]":
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _started(pid: int) -> float | None:
    """When a process of this machine began; None if there is none. A pid alone may have been given again."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def _runs(owner: Mapping[str, Any]) -> bool:
    started = _started(owner["pid"])
    return started is not None and abs(started - owner["started"]) < _CLOCK_STEP


def _lock_on_begin(engine: sqlalchemy.Engine) -> None:
    @sqlalchemy.event.listens_for(engine, "connect")
    def _connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA busy_timeout=60000")

    @sqlalchemy.event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections opened before the listeners
