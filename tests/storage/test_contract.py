"""The study database, on real SQLite and PostgreSQL: who may join, what counts, what several processes do to it."""

import os
import signal
import socket
import sys
import threading
import time
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import OperationalError

from wastetune.errors import UserError
from wastetune.storage import owner
from wastetune.storage.budget import (
    LOST,
    MAX_RETRIES,
    count_live,
    default_is_due,
    find_duplicate,
    interrupted_trials,
    is_void,
    retry_due,
)
from wastetune.storage.database import hide_password, open_storage
from wastetune.storage.records import TrialAttrs, trial_seconds
from wastetune.storage.study import (
    DataSource,
    StudyInfo,
    all_trials,
    best_trial,
    default_trial,
    find_study,
    finished_trials,
    get_study_attr,
    note_opening,
    read_openings,
    read_records,
    read_trials,
    set_study_attr,
    write_study_info,
)
from wastetune.storage.study import open_study as create_study
from wastetune.storage.trials import (
    begin_trial,
    complete_trial,
    fail_lost_trials,
    fail_trial,
    prune_trial,
    record_heartbeat,
    release_trials,
    report_score,
    set_trial_attrs,
    void_reason,
)
from wastetune.training.config import TrialConfig

FINGERPRINT = {"space": "s1", "weights": "w1"}
CONFIG = TrialConfig(head_layers=0, dropout=0.5, learning_rate=0.01, batch_size=8, epochs=1)


@pytest.fixture
def study(url):
    return open_study(url)


def open_study(url, fingerprint=FINGERPRINT, name="mine"):
    return create_study(open_storage(url), name, fingerprint)


def add(study, state=TrialState.COMPLETE, value=None, **attrs):
    study.add_trial(create_trial(state=state, value=value, user_attrs=attrs))
    return len(study.trials) - 1


def begin(study, dropout=0.5, **attrs):
    """A running trial, with the configuration of that dropout."""
    attrs = {"config": config_of(dropout)} | attrs
    return begin_trial(study, {"dropout": dropout}, {"dropout": FloatDistribution(0, 1)}, TrialAttrs(**attrs))


def config_of(dropout):
    return CONFIG.model_dump() | {"dropout": dropout}


def test_a_study_is_created_once_and_found_again(url, study):
    again = open_study(url)
    assert again.user_attrs == study.user_attrs
    assert again.direction.name == "MAXIMIZE"


def test_a_trial_enters_whole_and_is_finished_once(url, study):
    trial = begin(study)
    (running,) = open_study(url).trials
    assert (running.state, running.params, trial.number) == (TrialState.RUNNING, {"dropout": 0.5}, 0)
    assert running.user_attrs["config"] == CONFIG.model_dump()
    assert running.user_attrs["owner"]["pid"] == os.getpid()
    report_score(trial, 1, 0.25)
    set_trial_attrs(trial, TrialAttrs(cut="top"))
    assert complete_trial(trial, 0.75).value == 0.75
    report_score(trial, 2, 0.5)
    set_trial_attrs(trial, TrialAttrs(cut="another"))
    assert fail_trial(trial, "too late").state is TrialState.COMPLETE
    (told,) = open_study(url).trials
    assert (told.value, told.intermediate_values, told.user_attrs["cut"]) == (0.75, {1: 0.25}, "top")
    assert "failure" not in told.user_attrs


def test_a_trial_that_was_lost_while_its_process_was_paused_in_creating_it_is_seen_as_lost(url, study, monkeypatch):
    backend = study._storage._backend
    create = backend._create_new_trial
    heartbeat = threading.Thread(target=all_trials, args=(study,))

    def create_and_pause(*given):
        created = create(*given)
        other = open_study(url)
        (there,) = other.trials
        fail_lost_trials(other, [there])
        heartbeat.start()  # of this process
        heartbeat.join(0.5)
        return created

    monkeypatch.setattr(backend, "_create_new_trial", create_and_pause)
    trial = begin(study)
    heartbeat.join()
    assert not record_heartbeat(trial)
    assert count_live(read_trials(study)) == 0
    ended = complete_trial(trial, 0.75)
    assert (ended.state, ended.user_attrs["failure"]) == (TrialState.FAIL, LOST)


def test_ctrl_c_waits_for_the_end_of_a_transaction(study, monkeypatch):
    trial = begin(study)
    write = trial.storage.set_trial_state_values

    def interrupted(*given):
        # What Python does on Ctrl-C. A real signal here, late in a long test process with pytest's faulthandler,
        # died of a bad signal stack; tests/test_run.py sends real ones to real processes.
        signal.getsignal(signal.SIGINT)(signal.SIGINT, None)
        return write(*given)

    monkeypatch.setattr(trial.storage, "set_trial_state_values", interrupted)
    with pytest.raises(KeyboardInterrupt):
        complete_trial(trial, 0.5)
    assert study.trials[0].value == 0.5


def test_a_study_that_was_deleted_and_begun_again_is_another_one(url, study):
    first = study.user_attrs["id"]
    optuna.delete_study(study_name="mine", storage=url)
    assert open_study(url).user_attrs["id"] != first


def test_who_comes_with_another_fingerprint_is_told_what_differs(url, study):
    with pytest.raises(UserError) as error:
        open_study(url, {"space": "s2", "weights": "w1"})
    assert "study 'mine' was begun with another space (space: then s1, now s2)" in str(error.value)
    assert "weights" not in str(error.value)
    assert open_study(url, {"space": "s2", "weights": "w1"}, "another").trials == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("wastetune.db", "wastetune.db is not a database URL; write sqlite:///FILE"),
        ("sqlite:///nowhere/x.db", "the folder of the study database nowhere/x.db does not exist; create nowhere"),
        ("sqlite:////dev/null/x.db", "does not exist"),
        ("foo://h/x", "Can't load plugin: sqlalchemy.dialects:foo"),
        ("mysql+aiomysql://h/x", "the driver for mysql+aiomysql://h/x is not installed"),
        ("postgresql+psycopg://h:port/x", "is not a database URL"),
    ],
)
def test_a_wrong_url_is_told_in_a_sentence(wrong, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        open_storage(wrong)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_database_is_told_and_left_alone(tmp_path):
    file = tmp_path / "notes.db"
    file.write_text("not a database " * 100)
    with pytest.raises(UserError, match=r"notes\.db cannot be opened: file is not a database"):
        open_storage(f"sqlite:///{file}")
    assert file.read_text() == "not a database " * 100


@pytest.mark.parametrize("password", ["geheim", "ge{heim", "{geheim}", "{0}geheim", "geheim%25", "ge%40heim"])
@pytest.mark.parametrize("place", ["mysql+aiomysql://me:{}@h/x", "foo://me:{}@h/x", "postgresql+psycopg://me:{}@h:p/x"])
def test_a_password_is_never_shown(place, password):
    wrong = place.replace("{}", password)
    with pytest.raises(UserError) as error:
        open_storage(wrong)
    assert "heim" not in str(error.value)
    assert "***@h" in str(error.value)
    assert "heim" not in hide_password(wrong)


def test_braces_in_a_url_are_taken_as_they_are(tmp_path):
    open_study(f"sqlite:///{tmp_path / '{0}{name}.db'}")
    assert (tmp_path / "{0}{name}.db").is_file()


def test_the_budget_counts_complete_and_pruned_trials_alone(study):
    complete = add(study, value=0.5)
    pruned = add(study, TrialState.PRUNED)
    for state in (TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING):
        add(study, state)
    assert [trial.number for trial in finished_trials(study)] == [complete, pruned]


def test_a_twin_has_run_or_is_running_and_is_the_same_in_everything(study):
    assert find_duplicate(study.trials, CONFIG.model_dump()) is None
    add(study, TrialState.WAITING, config=CONFIG.model_dump())
    add(study, TrialState.FAIL, config=CONFIG.model_dump(), void=True)
    add(study, value=0.1, config=CONFIG.model_dump() | {"dropout": 0.50001})
    assert find_duplicate(study.trials, CONFIG.model_dump()) is None
    running = add(study, TrialState.RUNNING, config=CONFIG.model_dump())
    assert find_duplicate(study.trials, CONFIG.model_dump()) == running


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
def test_a_finished_trial_is_a_twin(study, state):
    number = add(study, state, None if state is TrialState.FAIL else 0.5, config=CONFIG.model_dump())
    assert find_duplicate(study.trials, CONFIG.model_dump()) == number


def test_the_best_of_equals_is_the_earliest(study):
    assert best_trial(study) is None
    add(study, TrialState.PRUNED, 0.9)
    add(study, value=0.2)
    first = add(study, value=0.7)
    add(study, value=0.7)
    assert best_trial(study).number == first
    assert default_trial(study) is None
    default = add(study, value=0.1, default=True)
    assert default_trial(study).number == default


def test_a_trial_that_failed_keeps_its_reason_and_has_no_value(study):
    told = fail_trial(begin(study), "out of cheese")
    assert (told.state, told.value, told.user_attrs["failure"]) == (TrialState.FAIL, None, "out of cheese")
    assert prune_trial(begin(study)).state is TrialState.PRUNED


@pytest.mark.parametrize(
    ("state", "due"), [(TrialState.FAIL, True), (TrialState.RUNNING, False), (TrialState.COMPLETE, False)]
)
def test_the_default_is_due_until_it_runs_and_again_where_it_failed(study, state, due):
    assert default_is_due(study.trials)
    add(study, state, 0.5 if state is TrialState.COMPLETE else None, default=True)
    add(study, value=0.5)
    assert default_is_due(study.trials) is due


def test_of_trials_that_were_begun_at_once_the_later_ones_yield(study):
    """Two workers that both saw one place left, or both chose one configuration, are told apart by their numbers."""
    trials = [begin(study, 0.1), begin(study, 0.2), begin(study, 0.1), begin(study, 0.3)]
    reasons = [void_reason(trial, 2) for trial in trials]
    assert reasons[:2] == [None, None]
    assert reasons[2:] == ["not run: the study had its 2 trials"] * 2
    assert [void_reason(trial, 9) for trial in trials] == [
        *(None, None, "not run: trial 0 has this configuration", None),
    ]
    fail_trial(trials[2], "not run", void=True)
    fail_trial(trials[0], "out of cheese")
    assert void_reason(trials[3], 2) is None
    assert count_live(study.trials) == 2
    assert [is_void(trial) for trial in study.trials] == [False, False, True, False]


def test_what_was_lost_is_tried_again_twice(study):
    assert retry_due(study.trials) is None
    for number in range(3):
        fail_trial(begin(study), LOST)
        due = retry_due(study.trials)
        if number < MAX_RETRIES:
            assert (due.number, due.params) == (2 * number, {"dropout": 0.5})
            running = begin(study)
            assert retry_due(study.trials) is None  # it is being tried
            fail_trial(running, "not run", void=True)
    assert due is None
    assert list(interrupted_trials(study.trials)) == [0, 2]  # the last one was not tried again: it failed
    assert find_duplicate(study.trials, CONFIG.model_dump()) == 0  # and the sampler does not get it again


def test_what_was_handed_back_is_tried_again_and_what_failed_by_itself_is_not(study):
    fail_trial(begin(study, 0.1), "out of cheese")
    assert retry_due(study.trials) is None
    for _ in range(4):
        begin(study, 0.2)
        release_trials(study, "interrupted")
        assert retry_due(study.trials).params == {"dropout": 0.2}
    assert interrupted_trials(study.trials) == {1: 2, 2: 3, 3: 4, 4: None}
    complete_trial(begin(study, 0.2), 0.5)
    assert retry_due(study.trials) is None
    assert [(each.state, each.again) for each in read_records(study)] == [
        ("failed", None),
        *(("interrupted", number + 1) for number in range(1, 5)),
        ("complete", None),
    ]
    assert study.trials[1].user_attrs["failure"] == "interrupted"


def test_a_sign_of_life_tells_whether_the_trial_is_still_ours(study):
    trial = begin(study)
    before = study.trials[0].user_attrs["beat"]
    assert record_heartbeat(trial)
    assert study.trials[0].user_attrs["beat"] > before
    fail_lost_trials(study, study.trials)
    assert not record_heartbeat(trial)
    release_trials(study, "interrupted")  # too late, and not heard
    assert study.trials[0].user_attrs["failure"] == LOST


def test_a_trial_whose_answer_was_lost_is_not_begun_twice(study, monkeypatch):
    """The database takes the trial and goes away before it says so."""
    create = study._storage.create_new_trial
    failures = iter([True])

    def lose_the_answer(*given, **named):
        number = create(*given, **named)
        if next(failures, False):
            raise OperationalError("INSERT", {}, Exception("server closed the connection unexpectedly"))
        return number

    monkeypatch.setattr(study._storage, "create_new_trial", lose_the_answer)
    assert [begin(study).number, begin(study, 0.1).number] == [0, 1]
    assert len(study.trials) == 2


def test_what_a_study_is_told_to_remember_whoever_joins_it_can_recall(url, study):
    set_study_attr(study, "trials", 7)
    assert get_study_attr(find_study(open_storage(url), "mine"), "trials") == 7
    assert get_study_attr(study, "nothing", "else") == "else"
    with pytest.raises(UserError, match=r"there is no study 'yours' in this database \(there: mine\)"):
        find_study(open_storage(url), "yours")


def of_data(url, name, content):
    study = open_study(url, name=name)
    data = DataSource("litter", "/data", f"split of {name}", ("box", "leaf"), {}, content)
    write_study_info(study, StudyInfo(question="", metric="macro_f1", data=data, tags={}))
    return study


def test_evaluations_on_the_same_pictures_are_counted_over_all_studies_of_the_database(url):
    first, again, other = of_data(url, "first", "c1"), of_data(url, "again", "c1"), of_data(url, "other", "c2")
    (opening,) = note_opening(first, (3, 1))
    assert (opening.study, opening.trials) == ("first", (3, 1))
    assert abs(datetime.fromisoformat(opening.when).timestamp() - time.time()) < 60
    note_opening(other, (9,))
    assert [each.study for each in note_opening(again, [3, 1])] == ["first", "again"]
    note_opening(first, (3, 1))  # the same final model again
    assert [each.trials for each in note_opening(first, (4,)) if each.study == "first"] == [(3, 1), (4,)]
    assert len(read_openings(again)) == 3
    assert [each.trials for each in read_openings(other)] == [(9,)]


def test_what_earlier_versions_noted_of_evaluations_is_counted(url, study):
    set_study_attr(study, "test_opened_for", [0, 7])
    assert [each.trials for each in note_opening(study, (7,))] == [(0,), (7,)]
    set_study_attr(study, "test_openings", [[0, 2], [7, 2]])
    assert [each.trials for each in note_opening(study, (8,))] == [(0, 2), (7, 2), (8,)]
    assert [each.when is None for each in read_openings(study)] == [True, True, False]


PROLOGUE = """
import os, sys, time, traceback
from multiprocessing import get_context
import optuna, sqlalchemy, psycopg
from wastetune.storage.budget import *
from wastetune.storage.database import open_storage
from wastetune.storage.records import TrialAttrs, trial_seconds
from wastetune.storage.study import *
from wastetune.storage.trials import *
url = sys.argv[1]
def join():
    return open_study(open_storage(url), "mine", {"space": "s1", "weights": "w1"})
def begin():
    return begin_trial(join(), {}, {}, TrialAttrs())
def say(line):
    os.write(1, f"{os.getpid()} {line}\\n".encode())
"""
# They are forked from one process, which has imported all and opened nothing: so they come at the same moment.
TOGETHER = """
count = int(sys.argv[2])
barrier = get_context("fork").Barrier(count)
children = []
for _ in range(count):
    if not (child := os.fork()):
        try:
            work(barrier.wait)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.fixture
def run_together(start_python, url):
    """Runs `work(wait)` in so many processes, all from `wait()` on at once; gives the lines that each wrote."""

    def run(work, count):
        process = start_python(PROLOGUE + work + TOGETHER, url, count)
        stdout, stderr = process.communicate(timeout=240)
        assert process.returncode == 0, stderr
        said = {}
        for line in stdout.splitlines():
            number, words = line.split(maxsplit=1)
            said.setdefault(number, []).append(words)
        return list(said.values())

    return run


def test_a_trial_is_lost_when_its_process_was_killed_and_not_before(url, study, start_python):
    process = start_python(PROLOGUE + "say(begin().number); time.sleep(600)", url)
    try:
        number = int(process.stdout.readline().split()[1])
        mine = begin(study)
        assert fail_lost_trials(study) == []
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert fail_lost_trials(study) == [number]
    lost = study.trials[number]
    assert (lost.state, lost.user_attrs["failure"]) == (TrialState.FAIL, "worker lost")
    assert study.trials[mine.number].state is TrialState.RUNNING
    assert fail_lost_trials(study) == []


def test_a_process_number_given_again_is_another_process_and_other_machines_are_left_alone(study):
    mine = owner.this_process()
    add(study, TrialState.RUNNING, owner=mine)
    reused = [
        add(study, TrialState.RUNNING, owner=mine | {"ticks": 1, "started": 1.0}),
        add(study, TrialState.RUNNING, owner=without_ticks(mine) | {"started": 1.0}),
    ]
    for elsewhere in ({"space": "of another container"}, {"space": "of another machine", "host": "elsewhere.invalid"}):
        add(study, TrialState.RUNNING, owner=mine | elsewhere | {"started": 1.0, "ticks": 1})
    add(study, TrialState.RUNNING)
    assert fail_lost_trials(study) == reused


def without_ticks(mine):
    """An owner as an earlier version wrote it."""
    return {key: value for key, value in mine.items() if key != "ticks"}


@pytest.mark.parametrize("jump", [-7200.0, 50 * 365 * 86400.0])
def test_after_a_jump_of_the_clock_a_trial_has_the_time_it_took(study, jump, monkeypatch):
    running, clock = begin(study), time.time
    monkeypatch.setattr(time, "time", lambda: clock() + jump)
    time.sleep(0.02)
    ended = complete_trial(running, 0.5)
    assert 0.02 <= trial_seconds(ended) < 30
    ended.datetime_start = ended.datetime_complete + timedelta(hours=1)
    del ended.user_attrs["seconds"]  # of an earlier version
    assert trial_seconds(ended) == 0.0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere start times are told by the wall clock")
@pytest.mark.parametrize("jump", [-7200.0, 7200.0, 50 * 365 * 86400.0])
def test_a_clock_that_jumps_and_a_new_host_name_lose_nothing(study, jump, monkeypatch):
    running = begin(study)
    started, clock = owner._started, time.time
    monkeypatch.setattr(owner, "_started", lambda pid: started(pid) + jump)
    monkeypatch.setattr(time, "time", lambda: clock() + jump)
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed.invalid")
    assert fail_lost_trials(study) == []
    assert record_heartbeat(running)
    release_trials(study, "interrupted")
    given_back = study.trials[running.number]
    assert (given_back.state, given_back.user_attrs["handed_back"]) == (TrialState.FAIL, True)


def test_an_owner_of_an_earlier_version_is_told_by_the_wall_clock(study, monkeypatch):
    mine = without_ticks(owner.this_process())
    assert owner.is_mine(mine)
    assert owner.is_mine({**mine, "started": mine["started"] + 5})
    assert owner.is_lost({**mine, "started": mine["started"] - 60})
    monkeypatch.setattr(owner, "_process_space", lambda: "")  # not on Linux: the host name alone tells machines apart
    assert not owner.is_lost({**mine, "space": "", "host": "elsewhere.invalid", "started": 1.0})
    assert owner.is_lost({**mine, "space": "", "started": 1.0})


def test_eight_processes_may_open_a_new_database_at_once(url, run_together):
    said = run_together("def work(wait):\n    wait()\n    say(join().user_attrs['id'])\n", 8)
    study = open_study(url)
    assert said == [[study.user_attrs["id"]]] * 8


@pytest.mark.skipif(sys.platform != "linux", reason="stands in for flock")
def test_the_budget_does_not_rest_on_lock_files(study, run_together):
    """Each begins trials until the budget is spent; what is one too many is given up before it runs."""
    work = """
import fcntl
fcntl.flock = lambda *_: None
def work(wait):
    study = join(); wait()
    while count_live(study.get_trials()) < 12:
        trial = begin_trial(study, {}, {}, TrialAttrs(config={"pid": os.getpid(), "at": time.monotonic()}))
        if reason := void_reason(trial, 12):
            fail_trial(trial, reason, void=True)
        else:
            complete_trial(trial, 0.5); say(trial.number)
"""
    said = run_together(work, 3)
    complete = [trial.number for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert sorted(int(number) for numbers in said for number in numbers) == complete
    assert len(complete) == 12


def test_processes_that_write_at_once_each_get_trials_of_their_own(study, run_together):
    work = """
def work(wait):
    join(); wait()
    for _ in range(10):
        trial = begin()
        report_score(trial, 1, 0.25)
        say(trial.number)
        complete_trial(trial, 0.5)
"""
    said = run_together(work, 4)
    assert sorted(int(number) for numbers in said for number in numbers) == list(range(40))
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
