"""Ctrl-C and SIGTERM: both raise KeyboardInterrupt, also where a library loses it, and both can be deferred."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def raise_on_signals() -> Iterator[Callable[[], None]]:
    """Inside, Ctrl-C and SIGTERM raise KeyboardInterrupt; the value is a function that raises it again.

    TensorFlow loses it now and then, because an exception in a callback or a destructor is ignored there.
    """
    received = False

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = True
        raise KeyboardInterrupt

    def check() -> None:
        if received:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield check
        return
    before = {number: signal.signal(number, receive) for number in _SIGNALS}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Delays Ctrl-C and SIGTERM to the end of the block, so that the block runs whole or not at all."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    if None in before.values() or threading.current_thread() is not threading.main_thread():
        yield
        return
    deferred: list[tuple[int, FrameType | None]] = []
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: deferred.append((number, frame)))
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for first, frame in deferred[:1]:
            listener = before[signal.Signals(first)]
            if callable(listener):
                listener(first, frame)
            elif listener == signal.SIG_DFL:
                signal.raise_signal(first)


def exit_process(status: int) -> NoReturn:
    """Ends this process with this exit status after an interrupt.

    `sys.exit` does not always: where the interrupt came within an `exec` of text, such as that of every dataclass
    while its module is imported, Python takes it for unhandled, though it was caught, and ends by SIGINT.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
