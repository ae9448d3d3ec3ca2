"""A study database that is away for a while: what was asked of it is asked again until it answers."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import exc

from wastetune.errors import UserError
from wastetune.signals import deferred_signals

T = TypeVar("T")

# Seconds that a database may be away: restarted, cut off, locked by a process that was paused.
GIVE_UP_AFTER = 300.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
# What a gRPC proxy says when it is away, or when the database behind it is.
_GRPC_UNAVAILABLE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL")

_log = logging.getLogger("wastetune")


def with_retries(action: Callable[[], T]) -> T:
    """What the action gives, which is a call or two to the study database and may be done twice.

    Ctrl-C waits for an attempt to end: within a transaction it would leave the database locked.
    UserError when the database was away for five minutes.
    """
    since: float | None = None
    pause = _FIRST_PAUSE
    while True:
        try:
            with deferred_signals():
                result = action()
        except Exception as error:
            if not _is_unavailable(error):
                raise
            reason = _first_line(error)
        else:
            if since is not None:
                _log.warning("the study database answers again")
            return result
        now = time.monotonic()
        if since is None:
            since = now
            _log.warning("the study database does not answer (%s); waiting", reason)
        if now - since > GIVE_UP_AFTER:
            raise UserError(
                f"the study database has not answered for {GIVE_UP_AFTER / 60:.0f} minutes ({reason}); "
                "what is finished is kept: start the same command again when it is back"
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _is_unavailable(error: BaseException | None) -> bool:
    """Whether another attempt may succeed. Optuna wraps the database's own error, gRPC gives a code."""
    if error is None:
        return False
    # A connection that breaks while a transaction is rolled back leaves the session waiting for another rollback.
    if isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError | exc.PendingRollbackError):
        return True
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    code = getattr(error, "code", None)
    if callable(code) and getattr(code(), "name", None) in _GRPC_UNAVAILABLE:
        return True
    return _is_unavailable(error.__cause__)


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    details = getattr(error, "details", None)  # gRPC's text goes on and on
    text = str(details()) if callable(details) else str(getattr(error, "orig", None) or error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:160]
