"""Which process runs a trial, and whether that process still exists."""

import contextlib
import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_CLOCK_STEP = 10.0  # seconds; a process's start time depends on the system clock, which may be adjusted


def _started(pid: int) -> float | None:
    """The start time of a process of this machine; None if it does not exist. A pid alone may have been reused."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


@cache
def _process_space() -> str:
    """The process namespace and boot of this machine: another container or machine may have the same host name."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/self/ns/pid').readlink()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    return ""


def this_process() -> dict[str, Any]:
    """This process, as stored in the `owner` attribute of its trials."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": _started(pid), "space": _process_space()}


def is_mine(owner: Mapping[str, Any] | None) -> bool:
    """Whether the owner of a trial is this process."""
    return owner is not None and owner["pid"] == os.getpid() and _is_here(owner) and not is_lost(owner)


def _is_here(owner: Mapping[str, Any]) -> bool:
    return (owner["host"], owner.get("space", "")) == (socket.gethostname(), _process_space())


def is_lost(owner: Mapping[str, Any] | None) -> bool:
    """Whether the owner of a trial ran on this machine and no longer exists; False for other machines."""
    if owner is None or not _is_here(owner):
        return False
    started = _started(owner["pid"])
    return started is None or abs(started - owner["started"]) >= _CLOCK_STEP
