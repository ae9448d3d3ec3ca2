"""Opens a study database by its URL: SQLite, PostgreSQL, another that Optuna supports, or Optuna's gRPC proxy."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from wastetune.errors import UserError, first_line, install_command, optional_import
from wastetune.formatting import render_bytes, render_count
from wastetune.storage.locks import LONG_TIMEOUT, exclusive
from wastetune.storage.retry import find_remedy, with_retries

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage

# Seconds; without them, a client waits for hours for a server that vanished.
_POSTGRESQL = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}
_GRPC_PORT = 13000  # Optuna's


def open_storage(url: str, *, patient: bool = False) -> "BaseStorage":
    """Optuna's storage at a database URL, or behind `grpc://HOST:PORT`; the first use creates the tables.

    UserError for an invalid URL, a missing driver, and a database that does not answer; if `patient`, only after
    five minutes of retries.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # wastetune prints its own messages
    if url.startswith("grpc://"):
        return _open_proxy(url)
    url = quote_password(url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise UserError(
            f"{hide_password(url)} is not a database URL; write sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
        ) from None
    shown = hide_password(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database and parsed.database != ":memory:":
        file = Path(parsed.database)
        if not file.parent.is_dir():
            raise UserError(f"the folder of the study database {file} does not exist; create {file.parent}")
    try:
        return with_retries(lambda: _open_database(url, parsed)) if patient else _open_database(url, parsed)
    except ImportError as error:
        raise UserError(
            f"the driver for {shown} is not installed ({error}); for PostgreSQL: {install_command('postgres')}"
        ) from error
    except (SQLAlchemyError, OSError, RuntimeError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = getattr(cause, "strerror", None) or first_line(getattr(cause, "orig", None) or cause or error)
        remedy = find_remedy(error)
        if not remedy and parsed.get_backend_name() == "sqlite":  # which says little of a full or read-only disk
            remedy = "see that its folder may be written to and has room, or give another --storage"
        what_to_do = f"; {remedy}" if remedy else ""
        raise UserError(
            f"the study database {shown} cannot be opened: {reason.replace(url, shown)}{what_to_do}"
        ) from error


def serve_proxy(url: str, host: str, port: int, on_ready: Callable[[], None]) -> None:
    """Serves a study database over gRPC until it is interrupted.

    UserError where the address is taken, and where gRPC is not installed.
    """
    with optional_import("gRPC", "grpc"):
        from optuna.storages import get_storage
        from optuna.storages._grpc.server import make_server
    try:
        server = make_server(get_storage(open_storage(url)), host, port)
        server.start()
    except RuntimeError as error:
        raise UserError(f"cannot listen at {host}:{port}: {error}; choose another --host or --port") from error
    on_ready()
    try:
        server.wait_for_termination()
    finally:
        server.stop(grace=2)


def describe_database(url: str) -> str:
    """Where a study database is, how large, and how many studies it has; it is neither made nor changed.

    UserError where it does not answer, or is something else.
    """
    shown = hide_password(url)
    if url.startswith("grpc://"):
        open_storage(url)
        return f"{shown}: it answers"
    try:
        parsed = make_url(quote_password(url))
        file = Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None
        if file is not None and not file.exists():
            return f"{file.absolute()}: not there yet"
        with sqlalchemy.create_engine(parsed, poolclass=NullPool).connect() as connection:
            tables = sqlalchemy.inspect(connection).get_table_names()
            count = {
                name: connection.execute(sqlalchemy.text(f"select count(*) from {name}")).scalar_one()
                for name in ("studies", "trials")
                if name in tables
            }
    except ImportError as error:
        raise UserError(
            f"the driver for {shown} is not installed ({error}); for PostgreSQL: {install_command('postgres')}"
        ) from error
    except (SQLAlchemyError, ValueError) as error:
        reason = first_line(getattr(error, "orig", None) or error)
        raise UserError(
            f"the study database {shown} cannot be opened ({reason.replace(url, shown)}); check --storage"
        ) from error
    where = shown if file is None else f"{file.absolute()}: {render_bytes(file.stat().st_size)}"
    studies, trials = (count.get(name, 0) for name in ("studies", "trials"))
    return f"{where}, {studies} {'study' if studies == 1 else 'studies'}, {render_count(trials, 'trial')}"


def engine_of(storage: "BaseStorage") -> sqlalchemy.Engine | None:
    """The database connections of a storage; None behind a proxy."""
    engine = getattr(getattr(storage, "_backend", storage), "engine", None)
    return engine if isinstance(engine, sqlalchemy.Engine) else None


def hide_password(url: str) -> str:
    """A database or tracking URL with its password replaced by ***."""
    try:
        shown = make_url(quote_password(url)).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        shown = re.sub(r"(://[^/:@]*:).*@", r"\1***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", shown)


def quote_password(url: str) -> str:
    """The URL with a bare @ in its password written as %40, so that the host begins after the last one."""
    found = re.match(r"([^:/]+://[^:/@]*:)(.*@[^?]*)@([^@]*)$", url)
    return f"{found[1]}{quote(found[2], safe='%')}@{found[3]}" if found else url


def _open_database(url: str, parsed: sqlalchemy.URL) -> "RDBStorage":
    from optuna.storages import RDBStorage

    sqlite, postgresql = (parsed.get_backend_name() == name for name in ("sqlite", "postgresql"))
    options: dict[str, Any] = {} if sqlite else {"pool_pre_ping": True}
    if postgresql and parsed.get_driver_name() in ("psycopg", "psycopg2"):
        options["connect_args"] = {key: value for key, value in _POSTGRESQL.items() if key not in parsed.query}
    # Processes that start together must not all create the tables.
    first = sqlalchemy.create_engine(parsed, poolclass=NullPool, connect_args=options.get("connect_args", {}))
    with exclusive(first, "tables", timeout=LONG_TIMEOUT):
        storage = RDBStorage(url.replace("{", "{{").replace("}", "}}"), engine_kwargs=options)  # Optuna formats the URL
        if sqlite:
            _lock_on_begin(storage.engine)
    return storage


def _open_proxy(url: str) -> "BaseStorage":
    found = re.fullmatch(r"grpc://(\[[0-9a-f:]+\]|[^:/@]+)(?::(\d+))?/?", url)
    if not found:
        raise UserError(f"{url} is not the address of a proxy; write grpc://HOST:PORT")
    try:
        with optional_import("gRPC", "grpc"):
            from optuna.storages import GrpcStorageProxy

            storage = GrpcStorageProxy(host=found[1], port=int(found[2] or _GRPC_PORT))
        storage.wait_server_ready(timeout=20)
    except ConnectionError:
        raise UserError(f"nobody answers at {url}; start `wastetune proxy` there, or check host and port") from None
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # `retry` logs what matters
    return storage


def _lock_on_begin(engine: sqlalchemy.Engine) -> None:
    @sqlalchemy.event.listens_for(engine, "connect")
    def _connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        connection.execute("PRAGMA busy_timeout=60000")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @sqlalchemy.event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections opened before the listeners
