"""The command line in processes of its own."""

import os
import subprocess
import sysconfig
from functools import partial
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def start_in():
    """Starts `wastetune` in a folder with these arguments; gives the process."""

    def start(folder, *arguments, **environment):
        command = [Path(sysconfig.get_path("scripts")) / "wastetune", *map(str, arguments)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=folder, text=True, env={**os.environ, **environment}, **pipes)

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
