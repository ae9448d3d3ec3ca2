"""What a study prints: lines, and progress bars where the output is a terminal."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import rich.console


@dataclass(frozen=True)
class Console:
    """Where lines and progress bars go."""

    rich: "rich.console.Console"

    def print(self, line: str = "") -> None:
        """Prints one line as it is, without markup."""
        self.rich.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A progress bar with rate and time left; where the output is not a terminal, one line at the end.

        The value is a function that takes the number of images done since its last call.
        """
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        done = 0
        started = time.perf_counter()

        def rate() -> float:
            return done / max(time.perf_counter() - started, 1e-9)

        columns: list[Any] = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} images/s"),
            TimeRemainingColumn(),
        ]
        with Progress(*columns, console=self.rich, transient=True, disable=not self.rich.is_terminal) as progress:
            task = progress.add_task(what, total=total, rate=0.0)

            def advance(images: int) -> None:
                nonlocal done
                done += images
                progress.update(task, completed=done, rate=rate())

            yield advance
        if done:
            self.print(f"{what}: {done:,} images, {rate():.0f} images/s")


def open_console(*, bars: bool = True, quiet: bool = False, stderr: bool = False) -> Console:
    """A console on the standard output or on `stderr`.

    `bars=False` is for processes that share one output; a `quiet` console prints nothing.
    """
    import rich.console

    terminal = None if bars and not quiet else False
    return Console(rich.console.Console(force_terminal=terminal, quiet=quiet, stderr=stderr))


def silence_tensorflow() -> None:
    """Sets TensorFlow's log level, before it is imported, and Keras's default backend unless KERAS_BACKEND is set."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of retracing, because each trial is a new model


@contextmanager
def suppressed_stderr() -> Iterator[None]:
    """Hides what TensorFlow's C++ code prints while it is imported; prints it where the import fails."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            hidden.seek(0)
            os.write(stderr, hidden.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
