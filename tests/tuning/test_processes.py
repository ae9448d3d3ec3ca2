"""Many worker processes on one study, as people start them: `run --workers`, `worker`, and what happens to them."""

import json
import os
import re
import signal
import time
from functools import lru_cache

import optuna
import pytest

from wastetune.storage.budget import LOST, is_void, only_finished, retry_due
from wastetune.storage.database import open_storage
from wastetune.storage.trials import fail_lost_trials

pytestmark = pytest.mark.slow

LEASE = "3"


@lru_cache(maxsize=1)  # a server has few connections to give, and it is asked again and again
def opened(url):
    return open_storage(url)


def study_of(url, name="tiny"):
    return optuna.load_study(study_name=name, storage=opened(url))


def wait_until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture
def slow_study(tiny, tmp_path):
    """A study whose trials take a while: they train a part of the backbone for many epochs."""
    space = (tiny.parent / "tiny_space.toml").read_text().replace("epochs = 2", "epochs = 20000\npatience = 20000")
    space = space.replace("default = 1.0 }\naug", "default = 0.6 }\naug")
    (tmp_path / "slow_space.toml").write_text(space)
    path = tmp_path / "slow.toml"
    path.write_text(tiny.read_text().replace(str(tiny.parent / "tiny_space.toml"), str(tmp_path / "slow_space.toml")))
    return path


def running(url, name="slow"):
    """The owners of the running trials of a study that may not be there yet."""
    try:
        trials = study_of(url, name).trials
    except KeyError:
        return {}
    return {t.number: t.user_attrs["owner"]["pid"] for t in trials if t.state.name == "RUNNING"}


def test_run_with_workers_ends_with_exactly_its_trials_and_a_report(
    tiny_heads, run_cli, tmp_path, mlflow_store, postgres
):
    url = postgres.new_database()
    options = ("--trials", 7, "--workers", 2, "--storage", url)
    ran = run_cli("run", "--study", tiny_heads, *options, WASTETUNE_CACHE="cache")
    assert (ran.returncode, ran.stderr) == (0, "")
    trials = study_of(url).trials
    assert len(only_finished(trials)) == 7
    ran_once = [json.dumps(trial.user_attrs["config"]) for trial in trials if not is_void(trial)]
    assert len(set(ran_once)) == len(ran_once) == 7
    owners = {trial.user_attrs["owner"]["pid"] for trial in trials}
    assert len(owners) == 2
    assert os.getpid() not in owners
    assert sorted(int(n) for n in re.findall(r"^trial +(\d+) ", ran.stdout, re.M)) == list(range(len(trials)))
    report = json.loads((tmp_path / "results" / "tiny" / "report.json").read_text())
    assert report["trials"]["complete"] + report["trials"]["pruned"] == 7

    from mlflow import MlflowClient

    client = MlflowClient(mlflow_store)
    (experiment,) = (found for found in client.search_experiments() if found.name == "pictures")
    runs = {run.info.run_name: run.info.status for run in client.search_runs([experiment.experiment_id])}
    assert runs == {"tiny": "FINISHED", "tiny final": "FINISHED"} | {
        f"trial {trial.number}": "FINISHED" for trial in only_finished(trials)
    }


def test_a_killed_worker_is_replaced_and_its_trial_tried_again(slow_study, start_cli, tmp_path, mlflow_store):
    url = f"sqlite:///{tmp_path / 'wastetune.db'}"
    run = start_cli(
        "run", "--study", slow_study, "--trials", 1, "--workers", 1, "--no-retrain", forks=True, WASTETUNE_CACHE="cache"
    )
    ((number, victim),) = wait_until(lambda: running(url)).items()
    os.kill(victim, signal.SIGKILL)
    ((again, successor),) = wait_until(lambda: {n: p for n, p in running(url).items() if p != victim}).items()
    lost, retry = study_of(url, "slow").trials
    assert (lost.number, lost.state.name, lost.user_attrs["failure"]) == (number, "FAIL", "worker lost")
    assert (retry.number, retry.user_attrs["config"]) == (again, lost.user_attrs["config"])
    run.send_signal(signal.SIGTERM)
    stdout, _ = run.communicate(timeout=60)
    assert "a worker died (signal 9); another one takes its place" in stdout
    assert run.returncode == 130
    assert not is_alive(successor)
    fail_lost_trials(study_of(url, "slow"))  # a worker that has not ended after its time of grace, on a busy machine
    handed_back = study_of(url, "slow").trials[1]
    assert (handed_back.state.name, handed_back.user_attrs["failure"] in ("interrupted", LOST)) == ("FAIL", True)


def test_a_run_whose_only_worker_is_told_to_end_is_stopped_and_opens_no_test_set(
    slow_study, start_cli, tmp_path, mlflow_store
):
    url = f"sqlite:///{tmp_path / 'wastetune.db'}"
    command = ("run", "--study", slow_study, "--trials", 1, "--workers", 1)
    run = start_cli(*command, forks=True, WASTETUNE_CACHE="cache")
    ((_, worker),) = wait_until(lambda: running(url)).items()
    os.kill(worker, signal.SIGTERM)
    stdout, stderr = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "stopped; what is finished is kept. Go on with:" in stderr
    assert "retraining" not in stdout
    assert [trial.state.name for trial in study_of(url, "slow").trials] == ["FAIL"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_end_hands_its_trial_back_within_ten_seconds(slow_study, start_cli, tmp_path, how):
    url = f"sqlite:///{tmp_path / 'wastetune.db'}"
    fresh = how is signal.SIGINT
    worker = start_cli("worker", "--study", slow_study, fresh=fresh, WASTETUNE_CACHE="cache")
    wait_until(lambda: running(url))
    told = time.monotonic()
    worker.send_signal(how)
    _, stderr = worker.communicate(timeout=60)
    assert time.monotonic() - told < 10
    # An import that was interrupted may have something to say before.
    assert (worker.returncode, stderr.splitlines()[-1]) == (0, "stopped; the trial in hand was handed back")
    (trial,) = study_of(url, "slow").trials
    assert (trial.state.name, trial.user_attrs["failure"]) == ("FAIL", "interrupted")
    assert retry_due([trial]) is trial


def test_a_worker_paused_past_its_lease_goes_on_with_new_work(slow_study, start_cli, tmp_path, postgres):
    url = postgres.new_database()
    start = lambda: start_cli("worker", "--study", slow_study, WASTETUNE_LEASE=LEASE, WASTETUNE_STORAGE=url)  # noqa: E731
    paused = start()
    try:
        ((number, _),) = wait_until(lambda: running(url)).items()
        paused.send_signal(signal.SIGSTOP)
        other = start()
        wait_until(lambda: study_of(url, "slow").trials[number].state.name == "FAIL")
        wait_until(lambda: any(pid == other.pid for pid in running(url).values()))
        paused.send_signal(signal.SIGCONT)
        wait_until(lambda: any(pid == paused.pid for n, pid in running(url).items() if n != number))
        assert study_of(url, "slow").trials[number].user_attrs["failure"] == LOST
        assert study_of(url, "slow").trials[number].value is None
    finally:
        for worker in (paused, other):
            worker.send_signal(signal.SIGTERM)
        ended = [worker.communicate(timeout=60) for worker in (paused, other)]
    assert [worker.returncode for worker in (paused, other)] == [0, 0], ended


def test_workers_that_die_again_and_again_are_given_up_with_a_sentence(tiny, run_cli, tmp_path, mlflow_store):
    """The out-of-memory killer, as far as a worker can tell: its own limit ends it while it starts."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif os.environ.get('WASTETUNE_PARENT'):\n    os.kill(os.getpid(), 9)\n"
    )
    ran = run_cli("run", "--study", tiny, "--workers", 1, PYTHONPATH=str(tmp_path))
    assert ran.returncode == 2
    assert ran.stderr == (
        "error: 4 workers died without a trial being finished, the last one with signal 9, perhaps for want of memory; "
        "what is finished is kept\n"
    )


def test_another_space_version_or_picture_is_refused_with_what_differs(tiny, run_cli, tmp_path):
    assert run_cli("worker", "--study", tiny, "--timeout", 0.01).returncode == 0
    other = tmp_path / "tiny.toml"
    space = tmp_path / "tiny_space.toml"
    space.write_text((tiny.parent / "tiny_space.toml").read_text().replace("dropout = 0.1", "dropout = 0.2"))
    text = tiny.read_text().replace(str(tiny.parent / "tiny_space.toml"), str(space))
    other.write_text(text.replace("views = 2", "views = 3"))
    refused = run_cli("worker", "--study", other)
    assert refused.returncode == 2
    assert "views: then 2, now 3" in refused.stderr
    assert "space's dropout: then 0.1, now 0.2" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    split = run_cli("worker", "--study", tiny, "--seed", 5)
    assert "was begun with another seed, data and split" in split.stderr


def test_a_renewed_worker_goes_on_in_the_same_process(tiny, start_cli, tmp_path):
    text = (
        (tiny.parent / "tiny_space.toml").read_text().replace("[0.6, 1.0], default = 1.0", "[0.6, 0.7], default = 0.6")
    )
    (tmp_path / "tails.toml").write_text(text)
    study = tmp_path / "tiny.toml"
    study.write_text(tiny.read_text().replace(str(tiny.parent / "tiny_space.toml"), str(tmp_path / "tails.toml")))
    worker = start_cli("worker", "--study", study, "--renew-after", 2, WASTETUNE_CACHE="cache")
    stdout, stderr = worker.communicate(timeout=280)
    assert (worker.returncode, stderr) == (0, "")
    trials = study_of(f"sqlite:///{tmp_path / 'wastetune.db'}").trials
    assert {trial.user_attrs["owner"]["pid"] for trial in trials} == {worker.pid}
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert [line for line in stdout.splitlines() if "trials are finished" in line] == [
        "0 of 3 trials are finished",
        "2 of 3 trials are finished",
    ]


def test_workers_end_when_the_run_that_started_them_was_killed(slow_study, start_cli, tmp_path, mlflow_store):
    url = f"sqlite:///{tmp_path / 'wastetune.db'}"
    run = start_cli("run", "--study", slow_study, "--workers", 1, WASTETUNE_CACHE="cache", WASTETUNE_LEASE=LEASE)
    ((_, worker),) = wait_until(lambda: running(url)).items()
    run.kill()
    run.communicate(timeout=60)
    wait_until(lambda: not is_alive(worker), seconds=20)
    # It hands its trial back, unless the signal ended it in the middle of a call of TensorFlow: then the trial is lost.
    fail_lost_trials(study_of(url, "slow"))
    assert running(url) == {}


def is_alive(pid):
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
