"""How a study stands, for people and for programs."""

import json
from datetime import datetime, timedelta

import pytest
from optuna.trial import TrialState, create_trial

from wastetune.storage.database import open_storage
from wastetune.storage.study import DataSource, StudyInfo, open_study, set_study_attr, write_study_info
from wastetune.tuning.progress import describe_status, render_status


@pytest.fixture
def study(url):
    """Ten trials a minute until now: 5 complete, 1 pruned, 2 failed, 1 that never ran, 2 running."""
    study = open_study(open_storage(url), "mine", {})
    set_study_attr(study, "trials", 20)
    data = DataSource("litter", "/data/litter", "d1", ("box", "leaf"), {"train": 28, "val": 7, "test": 7})
    write_study_info(study, StudyInfo(question="Which is it?", metric="macro_f1", data=data, tags={}))
    now = datetime.now()
    for number in range(6):
        trial = create_trial(state=TrialState.PRUNED if number == 3 else TrialState.COMPLETE, value=number / 10)
        trial.datetime_complete = now - timedelta(seconds=6 * (5 - number))
        study.add_trial(trial)
    for reason in ("worker lost", "worker lost"):
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"failure": reason}))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"failure": "not run", "void": True}))
    for host, age in (("here", 3), ("there", 300)):
        attrs = {"owner": {"host": host, "pid": 7}, "beat": now.timestamp() - age}
        study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=attrs))
    return study, now.timestamp()


def test_it_counts_and_tells_who_works_how_fast_and_how_long_still(study):
    status = describe_status(*study)
    assert status["trials"] == {"complete": 5, "pruned": 1, "running": 2, "fail": 2}
    assert (status["asked"], status["finished"], status["failures"]) == (20, 6, {"worker lost": 2})
    assert status["best"] == {"trial": 5, "score": 0.5, "config": {}}
    assert [(worker["host"], worker["alive"]) for worker in status["workers"]] == [("here", True), ("there", False)]
    assert status["trials_per_minute"] == pytest.approx(10, abs=0.1)
    assert status["seconds_left"] == pytest.approx(84, abs=1)
    assert json.loads(json.dumps(status)) == status


def test_a_person_reads_the_same_in_lines(study):
    lines = render_status(describe_status(*study)).splitlines()
    assert lines[:5] == [
        "mine: 6 of 20 trials finished (5 complete, 1 pruned), 2 running, 2 failed",
        "Which is it?",
        "best: 0.5000 (trial 5)",
        "10.0 trials a minute, about 84 s left",
        "failed 2 times: worker lost",
    ]
    assert lines[5].startswith("worker here 7: trial 9, for ")
    assert lines[6].endswith(", silent for 5 min")


def test_the_command_line_says_it_too(study, url, run_cli):
    told = run_cli("status", "--study", "mine", "--storage", url, "--json")
    assert json.loads(told.stdout)["finished"] == 6
    assert run_cli("status", "--study", "mine", "--storage", url).stdout.startswith("mine: 6 of 20")
    none = run_cli("status", "--study", "yours", "--storage", url)
    assert (none.returncode, none.stderr.count("\n")) == (2, 1)
    assert "there is no study 'yours' in this database (there: mine)" in none.stderr


def test_watching_says_it_again_until_the_study_has_its_trials(study, url, start_cli):
    watching = start_cli("status", "--study", "mine", "--storage", url, "--watch", "--json", PYTHONUNBUFFERED="1")
    try:
        assert json.loads(watching.stdout.readline())["asked"] == 20
        set_study_attr(study[0], "trials", 6)
        rest, stderr = watching.communicate(timeout=60)
    finally:
        watching.kill()
    assert (watching.returncode, stderr) == (0, "")
    assert [json.loads(line)["asked"] for line in rest.splitlines()][-1] == 6
