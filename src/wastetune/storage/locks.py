"""One process at a time: a lock beside a database file, or inside a database server.

Only a courtesy, for whoever is paused inside must not hold up the others for ever: after a while they go on all the
same. What must be exact is checked afterwards by whoever relies on it.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy
from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

# Seconds to wait for whoever is inside.
SHORT_TIMEOUT, LONG_TIMEOUT = 5.0, 60.0


@contextlib.contextmanager
def exclusive(engine: sqlalchemy.Engine | None, purpose: str, *, timeout: float = SHORT_TIMEOUT) -> Iterator[None]:
    """Inside, no other process is inside for the same purpose at the same database, unless it was waited for in vain.

    SQLite files and PostgreSQL have such locks; anything else, and None, lets everybody in.
    """
    with contextlib.ExitStack() as stack:
        if engine is not None and engine.dialect.name == "sqlite" and _file(engine) is not None:
            lock = FileLock(f"{_file(engine)}.{purpose}.lock")
            with contextlib.suppress(Timeout):
                stack.enter_context(lock.acquire(timeout=timeout))
        elif engine is not None and engine.dialect.name == "postgresql":
            _lock_server(engine, purpose, timeout, stack)
        yield


def _lock_server(engine: sqlalchemy.Engine, purpose: str, timeout: float, stack: contextlib.ExitStack) -> None:
    """A session's advisory lock: it ends with the connection, so also with a process that is killed."""
    key = int.from_bytes(hashlib.sha256(f"wastetune {purpose}".encode()).digest()[:8], signed=True)
    try:
        connection = stack.enter_context(engine.connect().execution_options(isolation_level="AUTOCOMMIT"))
        connection.execute(sqlalchemy.text(f"SET lock_timeout = {round(timeout * 1000)}"))
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": key})
    except SQLAlchemyError:  # waited in vain, or the server is away: what follows will find out
        return

    def unlock() -> None:
        with contextlib.suppress(SQLAlchemyError):
            connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), {"key": key})
            connection.execute(sqlalchemy.text("RESET lock_timeout"))

    stack.callback(unlock)


def _file(engine: sqlalchemy.Engine) -> Path | None:
    name = engine.url.database
    return Path(name) if name and name != ":memory:" else None
