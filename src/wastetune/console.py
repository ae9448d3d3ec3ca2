"""What a person sees while a study runs: lines, and bars where the output is a terminal."""

import logging
import os
import tempfile
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
        """One plain line."""
        self.rich.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A bar with rate and time left; not on a terminal: one line at the end. The value is told what was done."""
        import time

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

            def advance(pictures: int) -> None:
                nonlocal done
                done += pictures
                progress.update(task, completed=done, rate=rate())

            yield advance
        if done:
            self.print(f"{what}: {done:,} images, {rate():.0f} images/s")


def open_console(*, bars: bool = True, quiet: bool = False, stderr: bool = False) -> Console:
    """The standard output, or `stderr`; no bars where several processes share it, `quiet` where nobody reads it."""
    import rich.console

    return Console(
        rich.console.Console(force_terminal=None if bars and not quiet else False, quiet=quiet, stderr=stderr)
    )


def silence_tensorflow() -> None:
    """Keeps TensorFlow, not yet imported, from filling the screen; Keras runs on it, unless KERAS_BACKEND says else."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each trial is a new model, which it takes for a mistake


@contextmanager
def suppressed_stderr() -> Iterator[None]:
    """Keeps what TensorFlow's C++ prints on being imported off the terminal, unless the import fails."""
    screen = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(screen, held.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)
