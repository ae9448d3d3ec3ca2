"""What a study prints: lines, and rows of progress where the output is a terminal."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wastetune.formatting import render_rough_duration

if TYPE_CHECKING:
    import rich.console
    from rich.live import Live
    from rich.table import Table

# Seconds between the lines that stand for rows where the output is not a terminal.
_LINE_INTERVAL = 60.0


@dataclass(frozen=True)
class Row:
    """How far something is: so much of a total (None where it is not known), in words, and the seconds left."""

    what: str
    done: float
    total: float | None
    state: str = ""
    seconds_left: float | None = None
    at: float = field(default_factory=time.monotonic)

    def render(self) -> str:
        """The row as a line."""
        how = ", ".join(filter(None, (self.state, self.time_left())))
        return f"{self.what}: {how}" if how else self.what

    def time_left(self) -> str:
        """What is left by now, such as `17 min left`; empty where it is not known, or was more than was thought."""
        left = 0.0 if self.seconds_left is None else self.seconds_left - (time.monotonic() - self.at)
        return f"{render_rough_duration(left)} left" if left >= 1 and self.done != self.total else ""


Show = Callable[[Sequence[Row]], None]


@dataclass
class Console:
    """Where lines and rows of progress go."""

    rich: "rich.console.Console"
    _rows: dict[object, tuple[Row, ...]] = field(default_factory=dict)
    _live: "Live | None" = None

    @property
    def width(self) -> int:
        """The columns of the terminal; 80 where there is none."""
        return self.rich.width

    def print(self, line: str = "") -> None:
        """Prints one line as it is, without markup."""
        self.rich.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def rows(self) -> Iterator[Show]:
        """Rows that stay below the lines and change in place; the value is a function that shows the given ones.

        Where the output is not a terminal, they are printed as lines, once a minute.
        """
        here, printed = object(), time.monotonic()

        def show(rows: Sequence[Row]) -> None:
            nonlocal printed
            if self.rich.is_terminal:
                self._put(here, rows)
            elif time.monotonic() - printed >= _LINE_INTERVAL:
                printed = time.monotonic()
                for row in rows:
                    self.print(row.render())

        try:
            yield show
        finally:
            self._put(here, ())

    def _put(self, key: object, rows: Sequence[Row]) -> None:
        """Rows of all callers share one live display: nested ones draw over each other."""
        known = len(self._rows.get(key, ()))
        if rows:
            self._rows[key] = tuple(rows)
        else:
            self._rows.pop(key, None)
        if self._rows and self._live is None:
            from rich.live import Live

            self._live = Live(console=self.rich, get_renderable=self._table, transient=True, refresh_per_second=4)
            self._live.start()
        elif self._live is not None and not self._rows:
            self._live.stop()
            self._live = None
        elif self._live is not None and known != len(rows):
            self._live.refresh()

    def _table(self) -> "Table":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        for _ in range(4):
            table.add_column(no_wrap=True)
        for row in (each for rows in tuple(self._rows.values()) for each in rows):
            bar = ProgressBar(row.total, row.done, width=min(max(self.width // 10, 4), 24))
            table.add_row(Text(row.what), bar, Text(row.state), Text(row.time_left(), style="dim"))
        return table

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A row with rate and time left while images are worked on, and one line at the end.

        The value is a function that takes the number of images done since its last call.
        """
        done = 0
        started = time.monotonic()

        def rate() -> float:
            return done / max(time.monotonic() - started, 1e-9)

        with self.rows() as show:

            def advance(images: int) -> None:
                nonlocal done
                done += images
                count = f"{done:,}" if total is None else f"{done:,} of {total:,}"
                left = (total - done) / rate() if total and done else None
                show([Row(what, done, total, f"{count} images, {rate():.0f} images/s", left)])

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
