"""What a user did wrong and what to do about it."""

import difflib
import os
from collections.abc import Iterable


class UserError(Exception):
    """One clear sentence: what is wrong, where, and what to do. The command line prints it and exits with status 2."""


def suggest(word: str, known: Iterable[str]) -> str:
    """A sentence on what may have been meant: the near matches, or everything there is."""
    choices = list(known)
    near = difflib.get_close_matches(word, choices, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known: {', '.join(choices)}." if choices else "none are known."


def first_line(error: Exception) -> str:
    """The first line of an error's message, without a full stop at its end; its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(os.linesep + ".")[:200]
