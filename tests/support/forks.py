"""Processes forked from one that has imported all: `wastetune` commands that start in milliseconds.

`Fork` is one of the process that makes it. `lend_forks` makes `wastetune run --workers` fork its workers, too: a small
process beside it, which has no threads and no connections, forks each one, and the run adopts it. So it is the run's
own child, as its heartbeat asks for, and all else of the run is what a user has.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path

from support.forkserver import MAX_REQUEST
from wastetune.tuning.workers import processes

WORKER, NURSERY = "worker", "nursery"  # names of processes
_NAME, _SUBREAPER = 15, 36  # PR_SET_NAME, PR_SET_CHILD_SUBREAPER


class Fork:
    """A process forked from this one, with what `Popen` has."""

    def __init__(self, work, log):
        self.returncode = None
        self.pid = os.fork()
        if not self.pid:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            run_and_exit(work)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout=None):
        deadline = time.monotonic() + (timeout or 1e9)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.02)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        self.send_signal(signal.SIGTERM)


def run_and_exit(work):
    """Ends this process as an interpreter that ran `work`, but at once."""
    status = 0
    try:
        work()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def run_command(words):
    """`wastetune` with these words."""
    from wastetune.cli.main import main

    sys.argv = ["wastetune", *words]
    main(prog_name="wastetune")


def lend_forks(work=run_command):
    """From now on, the workers that `wastetune run` starts in this process are forks: `work(words of the command)`."""
    _prctl(_SUBREAPER, 1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    run = os.getpid()
    if not os.fork():
        ours.close()
        name_process(NURSERY)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with suppress(OSError):
            _serve(theirs, run, work)
        os._exit(0)
    theirs.close()
    processes.subprocess = _Forking(ours)


class _Forking:
    """Stands in for the module `subprocess` where workers are started."""

    DEVNULL, PIPE, TimeoutExpired = subprocess.DEVNULL, subprocess.PIPE, subprocess.TimeoutExpired

    def __init__(self, nursery):
        self.nursery = nursery

    def Popen(self, command, *, env, stdin, stdout, stderr):
        reading, writing = os.pipe()
        request = {"words": command[command.index("wastetune") + 1 :], "environment": env}
        socket.send_fds(self.nursery, [json.dumps(request).encode()], [writing, stderr.fileno()])
        os.close(writing)
        worker = _Adopted(int(self.nursery.recv(32)))
        worker.stdout = os.fdopen(reading, "rb")
        return worker


class _Adopted(Fork):
    def __init__(self, pid):
        self.pid, self.returncode = pid, None


def _serve(requests, run, work):
    """Forks a worker for each request and lets the run adopt it; ends with the run."""
    while True:
        message, streams, _, _ = socket.recv_fds(requests, MAX_REQUEST, 2)
        if not message:
            return
        told, telling = os.pipe()
        between = os.fork()
        if not between:
            if pid := os.fork():
                os.write(telling, str(pid).encode())
                os._exit(0)
            requests.close()
            for number, stream in enumerate(streams, start=1):
                os.dup2(stream, number)
                os.close(stream)
            request = json.loads(message)
            os.environ.update(request["environment"])
            deadline = time.monotonic() + 10
            while os.getppid() != run:  # not adopted yet
                if time.monotonic() > deadline:  # and never will be: the run is gone
                    os._exit(0)
                time.sleep(0.002)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            name_process(WORKER)
            run_and_exit(partial(work, request["words"]))
        os.waitpid(between, 0)  # from here on it is the run's child
        requests.send(os.read(told, 32))
        for stream in (*streams, told, telling):
            os.close(stream)


def name_process(name):
    """Gives this process a name that `processes_of` finds it by."""
    _prctl(_NAME, ctypes.create_string_buffer(name.encode()))


def processes_of(pid, name):
    """The numbers of the children of a process that have this name."""
    found = []
    with suppress(OSError, ValueError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            if is_alive(child, name):
                found.append(child)
    return found


def is_alive(pid, name):
    """Whether a process of this number and name runs."""
    with suppress(OSError):
        content = Path(f"/proc/{pid}/stat").read_text()
        return f"({name})" in content and content.rpartition(")")[2].split()[0] != "Z"
    return False


def _prctl(what, value):
    ctypes.CDLL(None).prctl(what, value, 0, 0, 0)
