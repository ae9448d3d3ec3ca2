"""The command line in processes of its own."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PIPES = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


COMMAND = "from wastetune.cli.main import main; main(prog_name='wastetune')"
LENDING = f"from support.forks import lend_forks; lend_forks(); {COMMAND}"


class Forked:
    """Code in a process forked by `support.forkserver`, with what the tests use of a `Popen`."""

    def __init__(self, server, folder, code, arguments, environment):
        self.args, self.returncode = arguments, None
        request = {"folder": str(folder), "code": code, "arguments": arguments, "environment": environment}
        ends = [os.pipe() for _ in range(3)]
        with Path(os.devnull).open() as nothing:
            given = [nothing.fileno(), *(write for _, write in ends)]
            socket.send_fds(server, [json.dumps(request).encode()], given)
        for _, write in ends:
            os.close(write)
        self.stdout, self.stderr, self._report = (os.fdopen(read) for read, _ in ends)
        self.pid = int(self._report.readline())

    def poll(self):
        if self.returncode is None and select.select([self._report], [], [], 0)[0]:
            self.returncode = int(self._report.readline())
            self._report.close()
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None and not select.select([self._report], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.poll()

    def communicate(self, timeout=None):
        with ThreadPoolExecutor(2) as pool:
            parts = [pool.submit(stream.read) for stream in (self.stdout, self.stderr) if not stream.closed]
            if wait(parts, timeout).not_done:
                self.kill()
                raise subprocess.TimeoutExpired(self.args, timeout)
        self.stdout.close()
        self.stderr.close()
        self.wait(timeout)
        return tuple(part.result() for part in parts) or ("", "")

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def with_support():
    """The environment of a process that imports `support`."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))}


@pytest.fixture(scope="session")
def fork_server(before):
    """The socket of a process that has imported all and forks itself for a command; None where a fork is not safe."""
    if sys.platform != "linux":  # elsewhere the libraries of the system have threads of their own
        yield None
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = subprocess.Popen(
        [sys.executable, "-m", "support.forkserver", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env=with_support(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    theirs.close()
    yield ours
    ours.close()
    server.wait(timeout=60)


@pytest.fixture(scope="session")
def start_in(fork_server):
    """Starts `wastetune` in a folder with these arguments; gives the process.

    `fresh` starts the installed script in a new interpreter, which takes seconds: for a test of how it starts or ends,
    of what it imports or prints meanwhile, and of its command line. With `forks`, the workers that `wastetune run`
    starts are forks, too, each of which saves such seconds.
    """

    def start(folder, *arguments, fresh=False, forks=False, **environment):
        words = list(map(str, arguments))
        surroundings = {**os.environ, **{name: str(value) for name, value in environment.items()}}
        if fork_server and not fresh and "PYTHONPATH" not in environment:
            code = LENDING if forks else COMMAND
            return Forked(fork_server, folder, code, ["wastetune", *words], surroundings)
        command = [Path(sysconfig.get_path("scripts")) / "wastetune", *words]
        return subprocess.Popen(command, cwd=folder, text=True, env=surroundings, **PIPES)

    return start


@pytest.fixture
def start_python(fork_server, tmp_path):
    """Starts `python -c` with this code and these arguments in the folder `tmp_path`; gives the process."""

    def start(code, *arguments):
        words = ["-c", *map(str, arguments)]
        if fork_server:
            return Forked(fork_server, tmp_path, code, words, dict(os.environ))
        command = [sys.executable, "-c", code, *words[1:]]
        return subprocess.Popen(command, cwd=tmp_path, text=True, env=with_support(), **PIPES)

    return start


@pytest.fixture
def start_cli(start_in, tmp_path):
    """The same in the folder `tmp_path`."""
    return partial(start_in, tmp_path)


@pytest.fixture
def run_cli(start_cli):
    """Runs `wastetune` with these arguments in the folder `tmp_path`; gives returncode, stdout and stderr."""

    def run(*arguments, **environment):
        process = start_cli(*arguments, **environment)
        stdout, stderr = process.communicate(timeout=280)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return run
