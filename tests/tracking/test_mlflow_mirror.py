"""MLflow costs no trial: what is posted arrives, also after a store was away, and nobody waits for one that hangs."""

import io
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace

import optuna
import pytest
import rich.console
from optuna.trial import TrialState, create_trial

from support.reports import a_report
from wastetune.console import Console
from wastetune.errors import UserError
from wastetune.settings import Locations
from wastetune.storage.database import open_storage
from wastetune.storage.study import DataSource
from wastetune.study.run import run_study
from wastetune.tracking import mlflow_mirror
from wastetune.tracking.mlflow_mirror import FinalReport, mirrored
from wastetune.tracking.mlflow_store import open_mirror
from wastetune.tuning.spec import load_study

DATA = DataSource("litter", "/data/litter", "d" * 64, ("box", "leaf"), {"train": 28, "val": 7, "test": 7})
REPORT = a_report(study="mine")
ATTRS = {"config": {"dropout": 0.1}, "history": [{"number": 1, "loss": 0.9, "score": 0.4, "accuracy": 0.5}]}


class Screen(Console):
    """Keeps what was said, and does something when it hears certain words."""

    def print(self, line=""):
        super().print(line)
        for words, act in self.hooks.items():
            if words in line:
                act()

    @classmethod
    def listening(cls, hooks=()):
        screen = cls(rich.console.Console(file=io.StringIO(), width=200))
        object.__setattr__(screen, "hooks", dict(hooks))
        return screen

    @property
    def text(self):
        return self.rich.file.getvalue()


@pytest.fixture
def screen():
    return Screen.listening()


@pytest.fixture
def open_store(mlflow_store):
    return lambda: open_mirror(mlflow_store, study="mine", study_id="abc", data=DATA, tags={})


@pytest.fixture
def trials():
    study = optuna.create_study(direction="maximize")
    study.add_trials(create_trial(state=TrialState.COMPLETE, value=0.5, user_attrs=ATTRS) for _ in range(4))
    return study.trials


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(mlflow_mirror, "_INTERVAL", 0.02)
    monkeypatch.setattr(mlflow_mirror, "_NOTICE_AFTER", 60.0)  # not so quick that a busy machine would be told of


def runs_of(mirror):
    """name -> status, of what has not been deleted."""
    runs = mirror.client.search_runs([mirror.experiment])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run.info.status for run in runs}


WHOLE = {"mine": "RUNNING", **{f"trial {number}": "FINISHED" for number in range(4)}}


def test_all_that_was_posted_is_there_at_the_end(open_store, trials, screen, quick, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    with mirrored(open_store, screen, "sqlite:///mlflow.db") as post:
        for trial in trials:
            post(trial)
        post(FinalReport(REPORT, folder))
    assert runs_of(open_store()) == WHOLE | {"mine": "FINISHED", "mine final": "FINISHED"}
    assert screen.text == ""


def test_trials_are_copied_while_the_study_goes_on(open_store, trials, screen, quick):
    mirror = open_store()
    with mirrored(lambda: mirror, screen, "sqlite:///mlflow.db") as post:
        for trial in trials:
            post(trial)
            wait_until(lambda number=trial.number: f"trial {number}" in runs_of(mirror))


def test_a_store_that_comes_back_gets_all(open_store, trials, screen, quick):
    opened, fails = threading.Event(), iter((OSError("gone fishing"), OSError("gone swimming")))

    def open_late():
        for error in fails:
            raise error
        mirror = open_store()
        opened.set()
        return mirror

    with mirrored(open_late, screen, "sqlite:///mlflow.db") as post:
        for trial in trials:
            post(trial)
        assert opened.wait(60)
    assert screen.text == "MLflow does not answer (gone fishing); the study goes on without it\n"
    assert runs_of(open_store()) == WHOLE


def test_a_store_that_stays_away_is_said_once_and_what_to_do_at_the_end(trials, screen, quick):
    tried = threading.Semaphore(0)

    def open_never():
        tried.release()
        raise OSError("gone fishing")

    with mirrored(open_never, screen, "sqlite:///mlflow.db") as post:
        post(trials[0])
        for _ in range(3):
            assert tried.acquire(timeout=60)
    said, lacks = screen.text.splitlines()
    assert said == "MLflow does not answer (gone fishing); the study goes on without it"
    assert lacks == "MLflow lacks a part of this study; run the same command again to copy it"


class Breaking:
    """An MLflow client that breaks the first time that a run shall end."""

    def __init__(self, client):
        self._client, self._whole = client, False

    def __getattr__(self, name):
        return getattr(self._client, name)

    def set_terminated(self, *arguments, **options):
        if not self._whole:
            self._whole = True
            raise OSError("the line is cut")
        self._client.set_terminated(*arguments, **options)


def test_a_copy_that_broke_half_way_is_made_again(open_store, trials, screen, quick):
    mirror = open_store()
    breaking = replace(mirror, client=Breaking(mirror.client))
    with mirrored(lambda: breaking, screen, "sqlite:///mlflow.db") as post:
        for trial in trials:
            post(trial)
        wait_until(lambda: "the line is cut" in screen.text)
    assert runs_of(mirror) == WHOLE
    assert "lacks" not in screen.text


def test_what_takes_long_at_the_end_is_said(open_store, trials, monkeypatch):
    monkeypatch.setattr(mlflow_mirror, "_NOTICE_AFTER", 0.0)
    going_on = threading.Event()
    screen = Screen.listening({"copying to MLflow": going_on.set})

    def open_slowly():
        assert going_on.wait(60)
        return open_store()

    with mirrored(open_slowly, screen, "sqlite:///mlflow.db") as post:
        for trial in trials:
            post(trial)
    assert screen.text == "copying to MLflow; Ctrl-C leaves the rest to the next run\n"
    assert runs_of(open_store()) == WHOLE


def test_ctrl_c_waits_for_no_store(screen, monkeypatch):
    monkeypatch.setattr(mlflow_mirror, "_GRACE", 0.05)
    answer = threading.Event()

    def open_never():
        answer.wait(60)
        raise OSError("too late")

    with pytest.raises(KeyboardInterrupt), mirrored(open_never, screen, "sqlite:///mlflow.db"):
        raise KeyboardInterrupt
    assert screen.text == ""
    assert not answer.is_set()
    answer.set()


def test_after_a_mistake_what_was_posted_is_still_copied(open_store, trials, screen, quick):
    with suppress(UserError), mirrored(open_store, screen, "sqlite:///mlflow.db") as post:
        for trial in trials:
            post(trial)
        raise UserError("five trials in a row failed")
    assert runs_of(open_store()) == WHOLE


def wait_until(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def silent_server():
    """A server that takes requests and answers none, until it is told to hang up: URI, hang_up, was it asked."""
    server = socket.create_server(("127.0.0.1", 0))
    taken, over, asked = [], threading.Event(), threading.Event()

    def take():
        with suppress(OSError):  # closed
            while True:
                connection, _ = server.accept()
                taken.append(connection)
                asked.set()
                if over.is_set():
                    connection.close()

    def hang_up():
        over.set()
        for connection in taken:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", hang_up, asked
    finally:
        hang_up()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def test_a_server_that_never_answers_costs_no_trial_and_the_next_run_copies_all(
    tiny, mlflow_store, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "200")  # longer than the whole test: no trial waits for it
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    spec = load_study(str(tiny)).model_copy(update={"trials": 2})
    with silent_server() as (uri, hang_up, asked):
        locations = Locations(f"sqlite:///{tmp_path / 'study.db'}", uri, tmp_path / "results", None, None)
        hearing = Screen.listening(
            {"trials are finished": lambda: wait_until(asked.is_set), "copying to MLflow": hang_up}
        )
        assert run_study(spec, locations, hearing, final=False) is None
    assert hearing.text.index("trial   1") < hearing.text.index("MLflow does not answer")
    assert hearing.text.count("MLflow does not answer") == 1
    assert "MLflow lacks a part of this study" in hearing.text
    study = optuna.load_study(study_name="tiny", storage=open_storage(locations.storage))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2

    again = Screen.listening()
    run_study(spec, replace(locations, tracking_uri=mlflow_store), again, final=False)
    assert "does not answer" not in again.text
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_store)
    (experiment,) = (found for found in client.search_experiments() if found.name == "pictures")
    names = sorted(run.info.run_name for run in client.search_runs([experiment.experiment_id]))
    assert names == ["tiny", "trial 0", "trial 1"]


def test_a_wrong_uri_is_refused_before_anything_is_done(tiny, tmp_path, screen):
    locations = Locations(f"sqlite:///{tmp_path / 'study.db'}", "file:./mlruns", tmp_path / "results", None, None)
    with pytest.raises(UserError, match="MLflow keeps runs in a database or on a server"):
        run_study(load_study(str(tiny)), locations, screen)
    assert screen.text == ""
    assert not list(tmp_path.iterdir())
