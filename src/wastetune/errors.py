"""Errors that a user can mend, as one sentence."""

import difflib
import errno
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """One clear sentence: what is wrong, where, and what to do. The command line prints it and exits with status 2."""


Say = Callable[[str], object]  # takes a sentence for the user


def warn(sentence: str) -> None:
    """Logs a sentence; where nothing else is set up, it is printed on the standard error."""
    logging.getLogger("wastetune").warning("%s", sentence)


def suggest(word: str, known: Iterable[str]) -> str:
    """A sentence with the known words closest to `word`, or with all of them where none is close."""
    choices = list(known)
    if meant := did_you_mean(word, choices):
        return meant
    return f"known: {', '.join(choices)}." if choices else "none are known."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question with the known words closest to `word`; empty where none is close."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else ""


def first_line(error: BaseException, most: int | None = None) -> str:
    """The first line of an error's message without a full stop; its type if it is empty.

    `most` cuts it after so many characters: only where no password is still to be hidden in it.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:most]


# What a user does about a disk that cannot be written to or read from. What else an OSError says has no remedy here.
_MAKE_ROOM = "make room, of bytes and of files (`df` and `df -i`)"
_ALLOW = "allow writing there, or name another folder (`wastetune --help` has the options and variables)"
_REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: _MAKE_ROOM,
    errno.EROFS: _ALLOW,
    errno.EACCES: _ALLOW,
    errno.EPERM: _ALLOW,
    errno.EIO: "the disk is faulty: name a folder on another one",
}


def is_disk_error(error: BaseException) -> bool:
    """Whether a disk is full, read-only or faulty, or writing is not allowed."""
    return isinstance(error, OSError) and error.errno in _REMEDIES


def render_os_error(error: OSError) -> str:
    """What is wrong, where, and for a disk also what to do."""
    reason = error.strerror or str(error)
    if error.filename:
        reason = f"{reason}: {error.filename}"
    if error.errno in _REMEDIES:
        reason += f"; {_REMEDIES[error.errno]}, and give the same command again: what is finished is kept"
    return reason


def install_command(extra: str | None) -> str:
    """The command that installs the packages of an extra of wastetune, or those of wastetune itself."""
    return f"pip install 'wastetune[{extra}]'" if extra else "pip install wastetune"


@contextmanager
def optional_import(what: str, extra: str | None) -> Iterator[None]:
    """Imports inside raise UserError where a package is missing, with the command that installs it."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{what} is not installed ({error}); {install_command(extra)}") from error
