"""Rows of progress on a real terminal, and the lines that stand for them elsewhere."""

import io
import os
import re

import pytest
import rich.console

from wastetune import console as module
from wastetune.console import Console, Row

SHOW_CURSOR = "\x1b[?25h"


@pytest.fixture
def terminal():
    """A console on a pseudo-terminal of 80 columns, and a function that reads what it writes up to these words."""
    leader, follower = os.openpty()

    def read_until(words):
        text = ""
        while words not in text:
            text += os.read(leader, 100_000).decode()
        return text

    with os.fdopen(follower, "w") as file:
        yield Console(rich.console.Console(file=file, width=80)), read_until
    os.close(leader)


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_rows_of_several_callers_stand_below_the_lines_and_vanish(terminal):
    console, read_until = terminal
    with console.rows() as show:
        show([Row("trial 3", 5, 12, "epoch 5 of 12, balanced accuracy 0.8743", 43.0)])
        with console.bar("activations, view 1", 2022) as advance:
            advance(1024)
            console.print("a line")
            read_until("a line")
            lines = plain(read_until("images/s")).replace("\r", "").split("\n")
        rows = [line.rstrip() for line in lines if line]
        assert re.fullmatch(r"trial 3 +━.* epoch 5 of 12, balanced accuracy 0.8743 +43 s left", rows[0])
        assert re.match(r"activations, view 1 ━.* 1,024 of 2,022 images, [\d,]+ images/s", rows[1])
        assert max(map(len, rows)) <= 80
        read_until("activations, view 1: 1,024 images, ")
    console.print("the end")
    assert "trial 3" not in read_until("the end").split(SHOW_CURSOR)[-1]
    assert console._live is None


def test_an_interrupt_leaves_the_terminal_as_it_was(terminal):
    console, read_until = terminal

    def run():
        with console.rows() as show:
            show([Row("trial 3", 0, 12)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    console.print("free")
    assert read_until("free").rindex(SHOW_CURSOR) > 0


def test_elsewhere_rows_are_plain_lines_once_a_minute(monkeypatch):
    text = io.StringIO()
    console = Console(rich.console.Console(file=text, width=80))
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with console.rows() as show:
        for _ in range(15):
            now += 10
            trial = Row("trial 3", now, 160, f"epoch {now:g}", 160 - now, at=now)
            show([trial, Row("1 of 9 trials", 1, 9)])
    assert text.getvalue().splitlines() == [
        "trial 3: epoch 60, 2 min left",
        "1 of 9 trials",
        "trial 3: epoch 120, 40 s left",
        "1 of 9 trials",
    ]


def test_time_left_counts_down_between_two_calls_and_is_unknown_at_first():
    assert Row("x", 0, 9).time_left() == ""
    assert Row("x", 9, 9, seconds_left=5.0).time_left() == ""
    assert Row("x", 1, 9, seconds_left=600.0).time_left() == "10 min left"
    long_ago = Row("x", 1, 9, seconds_left=600.0)
    assert Row("x", 1, 9, seconds_left=600.0, at=long_ago.at - 540).time_left() in ("60 s left", "59 s left")
    assert Row("x", 1, 9, seconds_left=600.0, at=long_ago.at - 9000).time_left() == ""
