"""A study database that is away: PostgreSQL that is stopped, SQLite that somebody holds."""

import logging
import sqlite3
import threading
import time

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from wastetune.errors import UserError
from wastetune.storage import retry
from wastetune.storage.database import engine_of, open_storage
from wastetune.storage.records import TrialAttrs
from wastetune.storage.retry import with_retries
from wastetune.storage.study import ask_lock, finished_trials, open_study, read_trials
from wastetune.storage.trials import begin_trial, complete_trial, report_score, set_trial_attrs


@pytest.fixture
def failing():
    """An action that fails so many times because the database is away."""

    def build(times, error=None):
        errors = iter([error or OperationalError("SELECT", {}, Exception("connection refused"))] * times)

        def action():
            for each in errors:
                raise each
            return "done"

        return action

    return build


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_PAUSE", 0.01)


def test_what_was_asked_is_asked_again_and_said_once(failing, caplog):
    with caplog.at_level(logging.WARNING, "wastetune"):
        assert with_retries(failing(4)) == "done"
    assert [record.getMessage() for record in caplog.records] == [
        "the study database does not answer (connection refused); waiting",
        "the study database answers again",
    ]


def test_an_error_that_waiting_does_not_mend_is_raised_at_once(failing):
    with pytest.raises(KeyError):
        with_retries(failing(1, KeyError("no such trial")))


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("database or disk is full", "make room on its disk, and give the same command again"),
        ("attempt to write a readonly database", "allow writing to the file and its folder"),
    ],
)
def test_a_full_or_read_only_disk_is_told_at_once(failing, words, remedy):
    with pytest.raises(UserError, match=rf"cannot be written to \({words}\); {remedy}"):
        with_retries(failing(100, OperationalError("INSERT", {}, Exception(words))))


def test_after_five_minutes_it_stops_with_what_to_do(failing, monkeypatch):
    monkeypatch.setattr(retry, "GIVE_UP_AFTER", 0.05)
    with pytest.raises(UserError, match=r"not answered for .*connection refused.*start the same command again"):
        with_retries(failing(100))


def test_a_server_that_is_restarted_costs_nothing(postgres, caplog):
    study = open_study(open_storage(postgres.new_database()), "mine", {})
    trial = begin_trial(study, {}, {}, TrialAttrs())
    postgres.stop()
    back = threading.Timer(1.5, postgres.start)
    back.start()
    try:
        report_score(trial, 1, 0.25)
        assert complete_trial(trial, 0.75).value == 0.75
    finally:
        back.join()
    assert (study.trials[0].value, study.trials[0].intermediate_values) == (0.75, {1: 0.25})
    assert caplog.text.count("does not answer") == 1


def test_a_lock_that_somebody_holds_for_long_is_waited_for(tmp_path, monkeypatch):
    file = tmp_path / "study.db"
    study = open_study(open_storage(f"sqlite:///{file}"), "mine", {})
    trial = begin_trial(study, {}, {}, TrialAttrs())
    for engine in (engine_of(study._storage),):  # SQLite itself waits for a minute
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=50")
    paused = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    paused.execute("BEGIN IMMEDIATE")
    threading.Timer(1.0, paused.rollback).start()
    began = time.monotonic()
    assert complete_trial(trial, 0.5).value == 0.5
    assert time.monotonic() - began > 0.5


def test_a_server_that_is_restarted_again_and_again_breaks_no_statement(postgres):
    url, over, broken = postgres.new_database(), threading.Event(), []
    study = open_study(open_storage(url), "mine", {})

    opened = threading.Barrier(4)  # opening a database that is away is a mistake, told at once

    def work():
        study = open_study(open_storage(url), "mine", {})
        opened.wait(60)
        while not over.is_set():
            try:
                with ask_lock(study):
                    read_trials(study)
                    trial = begin_trial(study, {}, {}, TrialAttrs())
                report_score(trial, 1, 0.25)
                set_trial_attrs(trial, TrialAttrs(cut="top"))
                complete_trial(trial, 0.5)
            except Exception as error:
                broken.append(error)

    def finished():
        return len(finished_trials(study))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    opened.wait(60)
    for _ in range(5):
        before, deadline = finished(), time.monotonic() + 60
        while finished() < before + 2:  # in the middle of work, however fast the machine is
            assert time.monotonic() < deadline
            time.sleep(0.02)
        postgres.stop()
        postgres.start()
    over.set()
    for thread in threads:
        thread.join()
    assert broken == []
    trials = read_trials(study)
    assert len(trials) >= 10
    # Where the answer to a creation was lost, Optuna creates a twin; it has no heartbeat and is failed after the lease.
    complete = [trial.user_attrs["owner"]["token"] for trial in trials if trial.state.name == "COMPLETE"]
    assert len(set(complete)) == len(complete)
    assert {trial.user_attrs["owner"]["token"] for trial in trials} == set(complete)


def test_a_connection_that_is_cut_while_the_tables_are_checked_is_told_or_waited_for(postgres):
    url = postgres.new_database()
    engine_of(open_storage(url)).dispose()
    name, seen, cut = url.rpartition("/test_")[2].partition("?")[0], [], []

    def see(connection, cursor, statement, *given):
        if "version_info" in statement:
            seen.append(statement)

    def end_connections(connection):
        if seen and not cut:
            cut.append(True)
            postgres.server.psql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = 'test_{name}' AND pid <> pg_backend_pid();"
            )

    event.listen(Engine, "before_cursor_execute", see)
    event.listen(Engine, "commit", end_connections)
    try:
        with pytest.raises(UserError, match=r"cannot be opened: .*terminating connection"):
            open_storage(url)
        cut.clear()
        engine_of(open_storage(url, patient=True)).dispose()
        assert cut
    finally:
        event.remove(Engine, "before_cursor_execute", see)
        event.remove(Engine, "commit", end_connections)
