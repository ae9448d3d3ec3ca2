"""Signs of life: who gives none loses its trial, and nobody else does."""

import time

import pytest
from optuna.trial import TrialState, create_trial

from wastetune.errors import UserError
from wastetune.settings import lease_seconds
from wastetune.storage.budget import LOST
from wastetune.storage.database import open_storage
from wastetune.storage.heartbeat import SilenceMonitor, heartbeats
from wastetune.storage.records import TrialAttrs
from wastetune.storage.study import open_study
from wastetune.storage.trials import begin_trial, fail_lost_trials


@pytest.fixture
def study(url):
    return open_study(open_storage(url), "mine", {})


@pytest.fixture
def _short(monkeypatch):
    monkeypatch.setenv("WASTETUNE_LEASE", "1.2")


def begin(study):
    return begin_trial(study, {}, {}, TrialAttrs())


def wait_until(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(**beats):
    """Running trials, numbered from 0, with these signs."""
    trials = [create_trial(state=TrialState.RUNNING, user_attrs={"beat": beat}) for beat in beats.values()]
    for number, trial in enumerate(trials):
        trial.number = number
    return trials


def silent(watch, now, **beats):
    return [trial.number for trial in watch.silent(running(**beats), now)]


def test_a_trial_is_silent_when_it_has_been_seen_unchanged_for_the_whole_lease():
    watch = SilenceMonitor(lease=60)
    assert [silent(watch, now, a=1, b=now) for now in range(0, 70, 10)] == [[]] * 6 + [[0]]


def test_a_sign_begins_the_lease_anew():
    watch = SilenceMonitor(lease=60)
    assert [silent(watch, now, a=1 if now < 50 else 2) for now in range(0, 110, 10)] == [[]] * 11
    assert silent(watch, 110, a=2) == [0]


def test_time_in_which_nobody_looked_counts_for_little():
    """The database was away for an hour, or this process was paused: the others could not give signs either."""
    watch = SilenceMonitor(lease=60)
    assert silent(watch, 0, a=1) == []
    assert silent(watch, 3600, a=1) == []
    assert silent(watch, 3610, a=2) == []


def test_clocks_of_other_machines_do_not_matter():
    watch = SilenceMonitor(lease=60)
    assert [silent(watch, now, fast=now + 1e6, slow=now - 1e6) for now in range(0, 200, 10)] == [[]] * 20


@pytest.mark.usefixtures("_short")
def test_a_trial_that_is_held_stays_and_one_that_nobody_holds_is_lost(study):
    abandoned, mine = begin(study), begin(study)  # this very process is alive, so only silence tells
    with heartbeats(study) as heartbeat:
        heartbeat.hold(mine)
        wait_until(lambda: study.trials[abandoned.number].state.name == "FAIL")
        time.sleep(2)
        assert not heartbeat.lost
    assert study.trials[abandoned.number].user_attrs["failure"] == LOST
    assert study.trials[mine.number].state.name == "RUNNING"


@pytest.mark.usefixtures("_short")
def test_who_was_taken_for_dead_learns_it(study):
    trial = begin(study)
    with heartbeats(study) as heartbeat:
        heartbeat.hold(trial)
        fail_lost_trials(study, study.get_trials(deepcopy=False))
        wait_until(lambda: heartbeat.lost)
        heartbeat.hold(begin(study))
        assert not heartbeat.lost


@pytest.mark.parametrize("text", ["soon", "0", "-3", "1e9", "nan"])
def test_a_lease_that_is_none_is_told(text, monkeypatch):
    monkeypatch.setenv("WASTETUNE_LEASE", text)
    with pytest.raises(UserError, match=f"WASTETUNE_LEASE is '{text}', but must be a number of seconds from 1 to 3600"):
        lease_seconds()
