"""Ctrl-C, also where a library swallows it, and SIGTERM, which means the same."""

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
    """Inside, Ctrl-C and SIGTERM raise KeyboardInterrupt; the value raises it again where it was lost.

    TensorFlow loses it now and then: what is raised in a callback or a destructor is ignored there.
    """
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only that one hears signals
        yield check
        return
    before = {number: signal.signal(number, press) for number in _SIGNALS}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM inside are heard at the end, so that what is inside happens whole or not at all."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    if None in before.values() or threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for first, frame in held[:1]:
            listener = before[signal.Signals(first)]
            if callable(listener):
                listener(first, frame)
            elif listener == signal.SIG_DFL:
                signal.raise_signal(first)


def exit_process(status: int) -> NoReturn:
    """Ends this process with this exit status after an interrupt.

    `sys.exit` does not always: where the interrupt came within an `exec` of text, such as that of every dataclass that
    is being imported, Python takes it for unhandled, though it was caught, and ends by SIGINT.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
