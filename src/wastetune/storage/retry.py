"""Retries of database calls while the study database is unavailable."""

import logging
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import exc
from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from wastetune.errors import UserError, first_line
from wastetune.signals import deferred_signals

T = TypeVar("T")

# Seconds that a database may be unavailable: restarted, disconnected, locked by a process that was paused.
GIVE_UP_AFTER = 300.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
# Words of a database's message -> what a user does about it.
_UNWRITABLE = {
    "disk is full": "make room on its disk",
    "No space left on device": "make room on its disk",
    "readonly database": "allow writing to the file and its folder, or give another --storage",
}
# Status codes of a gRPC proxy that is unavailable, or whose database is.
_GRPC_UNAVAILABLE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN", "INTERNAL")

_log = logging.getLogger("wastetune")


def with_retries(action: Callable[[], T]) -> T:
    """The result of `action`, which makes a call or two to the study database and may run more than once.

    Ctrl-C is deferred to the end of an attempt: within a transaction it would leave the database locked.
    UserError when the database was unavailable for five minutes, or its disk is full or read-only.
    """

    def attempt() -> T:
        with deferred_signals():
            try:
                return action()
            except Exception as error:
                if remedy := find_remedy(error):
                    reason = _reason(error)
                    raise UserError(f"the study database cannot be written to ({reason}); {remedy}") from error
                raise

    retrying = Retrying(
        retry=retry_if_exception(_is_unavailable),
        wait=wait_exponential(_FIRST_PAUSE, max=_LONGEST_PAUSE),
        stop=stop_after_delay(GIVE_UP_AFTER),
        before_sleep=_log_first_failure,
    )
    try:
        result = retrying(attempt)
    except RetryError as error:
        reason = _reason(error.last_attempt.exception())
        raise UserError(
            f"the study database has not answered for {GIVE_UP_AFTER / 60:.0f} minutes ({reason}); "
            "what is finished is kept: start the same command again when it is back"
        ) from error
    if retrying.statistics["attempt_number"] > 1:
        _log.warning("the study database answers again")
    return result


def find_remedy(error: BaseException) -> str:
    """What a user does about a database that waiting does not mend; empty for every other error."""
    found = next((remedy for words, remedy in _UNWRITABLE.items() if words in _reason(error)), "")
    return found and f"{found}, and give the same command again: what is finished is kept"


def _log_first_failure(state: RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        _log.warning("the study database does not answer (%s); waiting", _reason(state.outcome.exception()))


def _is_unavailable(error: BaseException | None) -> bool:
    """Whether another attempt may succeed. Optuna wraps the database's own error; gRPC gives a status code."""
    if error is None or isinstance(error, UserError):
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


def _reason(error: BaseException | None) -> str:
    """The first line of what caused the error."""
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    details = getattr(error, "details", None)  # the text of a gRPC error has many lines
    cause = Exception(details()) if callable(details) else getattr(error, "orig", None) or error
    return first_line(cause or Exception("no answer"), most=160)
