"""The examples run, and print what they say they print."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_small_study_says_its_answer_its_best_trials_and_what_is_on_new_pictures(
    mlflow_store, start_python, tmp_path
):
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    process = start_python(code, EXAMPLES / "small_study.py", tmp_path)
    stdout, stderr = process.communicate(timeout=280)
    assert (process.returncode, stderr) == (0, "")
    answer, table, pictures, passed_over = stdout.strip().split("\n\n")

    winner, score, low, high = map(
        float, re.fullmatch(r"trial (\d) won; macro F1 on the test set (\S+) \((\S+) to (\S+)\)", answer).groups()
    )
    assert 0 < low <= score <= high <= 1
    header, best, *others = [line.split() for line in table.splitlines()[1:]]
    assert header == ["number", "state", "score", "seconds", "head_layers", "learning_rate"]
    assert (float(best[0]), best[1]) == (winner, "complete")
    assert len(others) == 2
    assert all(float(best[2]) >= float(row[2]) for row in others)

    rows = [line.split() for line in pictures.splitlines()[2:]]
    assert len(rows) == 13
    assert {row[1] for row in rows} == {"bottle", "leaf", "NaN"}
    assert all(0.5 <= float(row[2]) <= 1 for row in rows if row[1] != "NaN")
    assert re.match(r"Passed over: Cannot use .*broken\.jpg: broken: ", passed_over)
