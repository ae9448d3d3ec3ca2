"""Ctrl-C is heard once it was pressed, even where the exception was lost."""

import contextlib
import os
import signal

import pytest

from wastetune.interrupts import heeded_interrupts


def test_an_interrupt_that_was_swallowed_is_raised_again():
    with heeded_interrupts() as check:
        check()
        with contextlib.suppress(KeyboardInterrupt):  # as a library would
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()


def test_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    with heeded_interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
