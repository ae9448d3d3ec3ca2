"""Errors that a user can mend, as one sentence."""

import difflib
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
