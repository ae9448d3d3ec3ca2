"""Which process runs a trial, and whether that process still exists."""

import contextlib
import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_CLOCK_STEP = 10.0  # seconds; psutil's start time depends on the wall clock, which may be adjusted


def _started(pid: int) -> float | None:
    """The start time of a process of this machine; None if it does not exist. A pid alone may have been reused."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def _ticks(pid: int) -> int | None:
    """The start time of a process in ticks since the machine's start, which no clock moves; None where unknown."""
    try:
        # The name in brackets may hold spaces and brackets. What follows begins with field 3; field 22 is the time.
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):  # not on Linux, or the process has just ended
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
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "started": _started(pid),  # by the wall clock: all that earlier versions have, and other systems than Linux
        "ticks": _ticks(pid),
        "space": _process_space(),
    }


def is_mine(owner: Mapping[str, Any] | None) -> bool:
    """Whether the owner of a trial is this process."""
    return owner is not None and owner["pid"] == os.getpid() and _is_here(owner) and not is_lost(owner)


def _is_here(owner: Mapping[str, Any]) -> bool:
    space = _process_space()
    if space and owner.get("space"):
        return bool(owner["space"] == space)  # the host name may have changed meanwhile
    return (owner["host"], owner.get("space", "")) == (socket.gethostname(), space)


def is_lost(owner: Mapping[str, Any] | None) -> bool:
    """Whether the owner of a trial ran on this machine and no longer exists; False for other machines."""
    if owner is None or not _is_here(owner):
        return False
    started, then, now = _started(owner["pid"]), owner.get("ticks"), _ticks(owner["pid"])
    if started is None:
        return True
    if then is not None and now is not None:
        return now != int(then)
    return bool(abs(started - owner["started"]) >= _CLOCK_STEP)
