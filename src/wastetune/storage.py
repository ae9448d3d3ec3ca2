"""The SQL storage: open it, create or join a study, count the budget.

The contract, on SQLite and on every other database that Optuna speaks:

- The SQL study is the truth. What is told stays told; MLflow and the report are made from it.
- A study belongs to one question: its fingerprint (study file, space, data and split, weights, version) is
  stored with it, and whoever comes with another one is refused and told what differs.
- The budget counts finished trials, complete or pruned. A failed trial is FAIL with its reason in the user
  attribute `failure`; it has no value and uses up no budget.
- Trial 0 is the default configuration. It carries the user attribute `default`, and so does the trial that
  takes its place where it failed.
- A trial enters the database whole, in one transaction: parameters, configuration, and `owner`, the host and
  process that runs it, so that one whose process is gone is noticed by whoever comes next to the same machine.
- A finished trial is immutable: what a worker tells that was taken for dead is not heard.
- On SQLite every transaction takes the write lock at its start (Optuna reads, then writes; two readers that
  both go on to write would claim the same trial), and readers are not blocked (WAL).
"""

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from filelock import FileLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from wastetune.errors import UserError
from wastetune.interrupts import held_interrupts
from wastetune.space import TrialConfig

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

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


def open_study(storage: "optuna.storages.RDBStorage", name: str, fingerprint: Mapping[str, str]) -> "optuna.Study":
    """The study of that name, created if it is not there.

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
    return study


@dataclass(frozen=True)
class InHand:
    """A running trial in this process's hands."""

    study: "optuna.Study"
    id: int
    number: int

    @property
    def storage(self) -> "BaseStorage":
        """Where it is written."""
        return self.study._storage


def begin_trial(
    study: "optuna.Study",
    params: Mapping[str, Any],
    distributions: "Mapping[str, BaseDistribution]",
    attrs: Mapping[str, Any],
) -> InHand:
    """A new running trial, owned by this process."""
    from optuna.trial import TrialState, create_trial

    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
    trial = create_trial(
        state=TrialState.RUNNING,
        params=dict(params),
        distributions=dict(distributions),
        user_attrs={**attrs, "owner": owner},
    )
    with held_interrupts():
        identity = study._storage.create_new_trial(study._study_id, template_trial=trial)
        return InHand(study, identity, study._storage.get_trial_number_from_id(identity))


def report(trial: InHand, epoch: int, score: float) -> None:
    """Tells the score after an epoch."""
    with _unless_finished():
        trial.storage.set_trial_intermediate_value(trial.id, epoch, score)


def record(trial: InHand, attrs: Mapping[str, Any]) -> None:
    """Leaves with the trial what a reader may ask for."""
    with _unless_finished():
        for key, value in attrs.items():
            trial.storage.set_trial_user_attr(trial.id, key, value)


def complete(trial: InHand, score: float) -> "FrozenTrial":
    """Tells the trial's score."""
    return _finish(trial, "COMPLETE", score)


def prune(trial: InHand) -> "FrozenTrial":
    """Tells that the trial was not worth going on with."""
    return _finish(trial, "PRUNED")


def fail(trial: InHand, reason: str) -> "FrozenTrial":
    """Tells that the trial came to nothing, and why."""
    record(trial, {"failure": reason})
    return _finish(trial, "FAIL")


def _finish(trial: InHand, state: str, score: float | None = None) -> "FrozenTrial":
    from optuna.trial import TrialState

    with held_interrupts():
        with _unless_finished():
            trial.storage.set_trial_state_values(trial.id, TrialState[state], None if score is None else [score])
        return read_trials(trial.study)[trial.number]


@contextlib.contextmanager
def _unless_finished() -> Iterator[None]:
    """A trial that another process has finished, because it took this one for dead, stays as it is."""
    from optuna.exceptions import UpdateFinishedTrialError

    # Ctrl-C within a transaction would leave the database locked to the process that wants to tell of it.
    with held_interrupts(), contextlib.suppress(UpdateFinishedTrialError):
        yield


def read_trials(study: "optuna.Study") -> "list[FrozenTrial]":
    """All trials of the study, in order."""
    with held_interrupts():
        return study.get_trials(deepcopy=False)


def finished_trials(study: "optuna.Study") -> "list[FrozenTrial]":
    """The trials that the budget counts: complete or pruned."""
    return only_finished(read_trials(study))


def only_finished(trials: "Iterable[FrozenTrial]") -> "list[FrozenTrial]":
    """Those of the trials that the budget counts: complete or pruned."""
    return [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]


def default_is_due(trials: "Iterable[FrozenTrial]") -> bool:
    """Whether the default configuration has not run and does not run."""
    return not any(trial.user_attrs.get("default") and trial.state.name in ("COMPLETE", "RUNNING") for trial in trials)


def find_twin(trials: "Iterable[FrozenTrial]", config: TrialConfig) -> int | None:
    """The number of a trial that has run or is running this very configuration."""
    wanted = config.model_dump()
    for trial in trials:
        if trial.state.name in ("COMPLETE", "PRUNED", "RUNNING") and trial.user_attrs.get("config") == wanted:
            return trial.number
    return None


def fail_lost(study: "optuna.Study") -> list[int]:
    """Tells FAIL to the running trials whose process on this machine is gone; gives their numbers."""
    lost = [
        InHand(study, trial._trial_id, trial.number)
        for trial in read_trials(study)
        if trial.state.name == "RUNNING" and _is_lost(trial.user_attrs.get("owner"))
    ]
    for trial in lost:
        fail(trial, "worker lost")
    return [trial.number for trial in lost]


def best_trial(study: "optuna.Study") -> "FrozenTrial | None":
    """The complete trial with the highest score, the earliest of equals; None before there is one."""
    complete = _complete(study)
    return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)


def default_trial(study: "optuna.Study") -> "FrozenTrial | None":
    """The complete trial that ran the default configuration; None before there is one."""
    return next((trial for trial in _complete(study) if trial.user_attrs.get("default")), None)


def _complete(study: "optuna.Study") -> "list[FrozenTrial]":
    return [trial for trial in read_trials(study) if trial.state.name == "COMPLETE"]


def _started(pid: int) -> float | None:
    """When a process of this machine began; None if there is none. A pid alone may have been given again."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def _is_lost(owner: Mapping[str, Any] | None) -> bool:
    if owner is None or owner["host"] != socket.gethostname():
        return False
    started = _started(owner["pid"])
    return started is None or abs(started - owner["started"]) >= _CLOCK_STEP


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
