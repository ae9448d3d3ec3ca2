"""Ctrl-C is heard once it was pressed, even where the exception was lost."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from wastetune.signals import deferred_signals, raise_on_signals


def test_an_interrupt_that_was_swallowed_is_raised_again():
    with raise_on_signals() as check:
        check()
        with contextlib.suppress(KeyboardInterrupt):  # as a library would
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()


def test_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    with raise_on_signals():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_held_interrupt_is_heard_at_the_end():
    done = []

    def work():
        with deferred_signals():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["whole"]


def test_a_held_interrupt_is_heard_by_whoever_heeds_it():
    with raise_on_signals() as check:
        with contextlib.suppress(KeyboardInterrupt), deferred_signals(), deferred_signals():
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()


def test_an_interrupt_that_was_caught_is_no_reason_to_end_by_a_signal():
    """As it may hit in the middle of an import: of a dataclass, whose methods are executed from text."""
    code = "\n".join(
        [
            "from wastetune.signals import exit_process, raise_on_signals",
            "try:",
            "    with raise_on_signals():",
            "        exec('import os, signal; os.kill(os.getpid(), signal.SIGTERM)')",
            "except KeyboardInterrupt:",
            "    print('stopped')",
            "    exit_process(0)",
        ]
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "stopped\n", "")
