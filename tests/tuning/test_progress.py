"""How a study stands, for people and for programs."""

import json
import re
import time
from contextlib import contextmanager
from datetime import datetime, timedelta

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from wastetune.evaluation.metrics import METRICS
from wastetune.storage.database import open_storage
from wastetune.storage.records import record, trial_seconds
from wastetune.storage.study import DataSource, StudyInfo, open_study, set_study_attr, write_study_info
from wastetune.training.fit import Epoch
from wastetune.tuning.workers.progress import (
    describe_status,
    render_status,
    render_trial,
    seconds_per_trial,
    show_study,
    show_trial,
)


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
        trial.datetime_start = trial.datetime_complete - timedelta(seconds=6)
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
    assert status["trials"] == {"complete": 5, "pruned": 1, "running": 2, "fail": 2, "interrupted": 0}
    assert (status["asked"], status["finished"], status["failures"]) == (20, 6, {"worker lost": 2})
    assert status["metric"] == "macro_f1"
    assert status["best"] == {"trial": 5, "score": 0.5, "config": {}, "origin": ""}
    assert [(worker["host"], worker["alive"]) for worker in status["workers"]] == [("here", True), ("there", False)]
    assert status["trials_per_minute"] == pytest.approx(10, abs=0.1)
    assert status["seconds_left"] == pytest.approx(84, abs=1)
    assert json.loads(json.dumps(status)) == status


@pytest.mark.parametrize("hours", [-3, 3, 400_000])
def test_after_a_jump_of_the_clock_no_time_is_negative_or_absurd(study, hours):
    """The clock jumped before the last four trials ended; who looks has the new time."""
    known, now = study
    jump = timedelta(hours=hours)
    late = datetime.fromtimestamp(now) + jump
    for number in range(4):
        trial = create_trial(state=TrialState.COMPLETE, value=0.1)
        trial.datetime_start = datetime.fromtimestamp(now)
        trial.datetime_complete = late + timedelta(seconds=6 * (number + 1))
        known.add_trial(trial)
    status = describe_status(known, late.timestamp() + 24)
    assert (status["finished"], status["asked"]) == (10, 20)
    assert status["trials_per_minute"] == pytest.approx(10, rel=0.3)
    assert status["seconds_left"] == pytest.approx(60, rel=0.3)
    assert all(worker["seconds"] >= 0 and worker["silent_seconds"] >= 0 for worker in status["workers"])
    last = known.trials[-1]
    assert trial_seconds(last) >= 0
    last.user_attrs["seconds"] = 12.5
    assert record(last).seconds == 12.5
    assert "   12 s" in render_trial(last, None, "macro_f1")


def test_a_night_between_two_runs_is_not_in_the_rate(study):
    known, now = study
    assert describe_status(known, now + 8 * 3600)["trials_per_minute"] == pytest.approx(10, abs=0.1)


def test_a_person_reads_the_same_in_lines(study):
    lines = render_status(describe_status(*study)).splitlines()
    assert lines[:5] == [
        "mine: 6 of 20 trials finished (5 complete, 1 pruned), 2 running, 2 failed",
        "Which is it?",
        "best macro F1: 0.5000 (trial 5)",
        "10.0 trials a minute, about 84 s left",
        "failed 2 times: worker lost",
    ]
    assert lines[5].startswith("worker here 7: trial 9, for ")
    assert lines[6].endswith(", silent for 5 min")


def test_what_was_interrupted_has_not_failed_and_says_where_it_goes_on(study):
    for dropout, attrs in [
        (0.1, {"failure": "interrupted", "handed_back": True}),
        (0.2, {"failure": "worker lost"}),
        (0.3, {"failure": "the loss became nan"}),
    ]:
        study[0].add_trial(create_trial(state=TrialState.FAIL, user_attrs={"config": {"dropout": dropout}, **attrs}))
    study[0].add_trial(create_trial(value=0.3, user_attrs={"config": {"dropout": 0.1}}))
    status = describe_status(*study)
    assert (status["trials"]["fail"], status["trials"]["interrupted"]) == (3, 2)
    assert status["failures"] == {"worker lost": 2, "the loss became nan": 1}
    lines = render_status(status).splitlines()
    assert lines[0].endswith(", 2 running, 3 failed, 2 interrupted")
    assert lines[6:8] == [
        "trial 11 was interrupted, tried again as trial 14",
        "trial 12 was interrupted (worker lost), to be tried again",
    ]


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


def test_run_and_status_tell_the_same_time_left_and_a_pause_is_no_part_of_it(study):
    later, now = study[0].trials, study[1] + 3600
    for trial in later[3:]:  # an hour without a worker
        trial.datetime_start += timedelta(hours=1)
        trial.datetime_complete = trial.datetime_complete and trial.datetime_complete + timedelta(hours=1)
    assert seconds_per_trial(later) == pytest.approx(6)
    assert seconds_per_trial(later[:1]) is None
    console = Shown()
    with show_study(console, "macro_f1", 20, running=False) as on_change:
        on_change(study[0].trials)
    assert console.keep[0].seconds_left == pytest.approx(describe_status(study[0], now)["seconds_left"])


def test_a_limit_that_is_sooner_than_the_last_trial_is_the_time_left(study):
    for trials in (study[0].trials, []):  # also before it is known what a trial takes
        console = Shown()
        with show_study(console, "macro_f1", 20, running=False, end=time.monotonic() + 30) as on_change:
            on_change(trials)
        assert console.keep[0].seconds_left == pytest.approx(30, abs=5)


class Shown:
    """A console that keeps the rows that it was asked to show."""

    def __init__(self):
        self.last, self.keep = [], []

    @contextmanager
    def rows(self):
        def show(rows):
            self.keep += rows
            self.last.append([(row.what, row.done, row.total, row.state) for row in rows])

        yield show
        self.last.append([])


def ended(number, value, state=TrialState.COMPLETE, **config):
    distributions = {key: FloatDistribution(0, 10000) for key in config}
    attrs = {"config": {**config, "batch_size": 32}, "failure": "the loss became nan"}
    trial = create_trial(state=state, value=value, params=config, distributions=distributions, user_attrs=attrs)
    trial.number = number
    trial.datetime_start = trial.datetime_complete - timedelta(seconds=293)
    return trial


SEARCHED = {"frozen_depth": 0.8125, "augmentation": 0.6667, "head_units": 256.0, "learning_rate": 0.000298}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("width", [80, 120])
def test_the_line_of_a_trial_names_the_metric_and_fits(metric, width):
    best, name = ended(107, 0.91234), METRICS[metric][0]
    complete, pruned = (
        render_trial(trial, best, metric, width)
        for trial in (ended(112, 0.87431, **SEARCHED), ended(113, 0.5, TrialState.PRUNED, **SEARCHED))
    )
    assert complete.startswith(f"trial 112  {name} 0.8743    293 s  best 0.9123 (trial 107)")
    assert re.match(r"trial 113  pruned +293 s  best 0.9123 \(trial 107\)", pruned)
    assert complete.index("293 s") == pruned.index("293 s")
    assert max(len(complete), len(pruned)) <= width
    assert ("frozen_depth 0.812" in complete) == (width == 120 or name != "balanced accuracy")
    assert "batch_size" not in complete  # it was not searched


def test_the_line_of_a_failed_trial_says_why():
    assert render_trial(ended(3, None, TrialState.FAIL), None, "macro_f1") == "trial   3  failed: the loss became nan"


def test_a_running_trial_shows_its_epochs_and_the_time_that_the_rest_will_take():
    console = Shown()
    with show_trial(console, "macro_f1", 7, 4) as on_epoch:
        on_epoch(Epoch(1, 1.0, 0.5, 0.5, 20.0))
        on_epoch(Epoch(2, 0.5, 0.8743, 0.9, 10.0))
    assert console.last == [
        [("trial 7", 0, 4, "first epoch")],
        [("trial 7", 1, 4, "epoch 1 of 4, macro F1 0.5000")],
        [("trial 7", 2, 4, "epoch 2 of 4, macro F1 0.8743")],
        [],
    ]


def test_a_study_shows_its_trials_and_those_that_run_in_other_processes(study):
    console, trials = Shown(), study[0].trials
    with show_study(console, "macro_f1", 20, running=False) as on_change:
        on_change(trials)
    assert console.last[0] == [("6 of 20 trials", 6, 20, "best macro F1 0.5000 (trial 5)")]
    first, second = (trial for trial in trials if trial.state == TrialState.RUNNING)
    second.user_attrs["config"] = {"epochs": 8}
    second.intermediate_values = {1: 0.25, 2: 0.75}
    second.datetime_start = datetime.now() - timedelta(seconds=10)
    with show_study(console, "macro_f1", 20, running=True) as on_change:
        on_change(trials)
    assert console.last[-2][1:] == [
        (f"trial {first.number}", 0, None, "first epoch"),
        (f"trial {second.number}", 2, 8, "epoch 2 of 8, macro F1 0.7500"),
    ]
