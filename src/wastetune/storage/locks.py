"""Locks between processes: a lock file beside a SQLite database, an advisory lock in PostgreSQL.

The locks are advisory: a process that is paused while it holds one must not block the others for ever, so they go on
after a timeout. What must be exact is checked again afterwards by the code that relies on it.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy
from filelock import Timeout
from sqlalchemy.exc import SQLAlchemyError

from wastetune.files import file_lock

# Seconds to wait for the process that holds the lock.
SHORT_TIMEOUT, LONG_TIMEOUT = 5.0, 60.0


@contextlib.contextmanager
def exclusive(engine: sqlalchemy.Engine | None, purpose: str, *, timeout: float = SHORT_TIMEOUT) -> Iterator[None]:
    """Holds the database's lock for this purpose, or goes on without it after the timeout.

    SQLite files and PostgreSQL have such locks; for any other database, and for None, nothing is locked.
    """
    with contextlib.ExitStack() as stack:
        if engine is not None and engine.dialect.name == "sqlite" and _file(engine) is not None:
            with contextlib.suppress(Timeout):
                stack.enter_context(file_lock(Path(f"{_file(engine)}.{purpose}.lock"), timeout))
        elif engine is not None and engine.dialect.name == "postgresql":
            _lock_server(engine, purpose, timeout, stack)
        yield


def _lock_server(engine: sqlalchemy.Engine, purpose: str, timeout: float, stack: contextlib.ExitStack) -> None:
    """An advisory lock of a session: it ends with the connection, so also when the process is killed."""
    key = int.from_bytes(hashlib.sha256(f"wastetune {purpose}".encode()).digest()[:8], signed=True)
    try:
        connection = stack.enter_context(engine.connect().execution_options(isolation_level="AUTOCOMMIT"))
        connection.execute(sqlalchemy.text(f"SET lock_timeout = {round(timeout * 1000)}"))
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": key})
    except SQLAlchemyError:  # timed out, or the server is unavailable: the caller's next statement finds out
        return

    def unlock() -> None:
        with contextlib.suppress(SQLAlchemyError):
            connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), {"key": key})
            connection.execute(sqlalchemy.text("RESET lock_timeout"))

    stack.callback(unlock)


def _file(engine: sqlalchemy.Engine) -> Path | None:
    name = engine.url.database
    return Path(name) if name and name != ":memory:" else None
