"""The MLflow mirror, in real SQLite stores: what a reader of MLflow finds, how often one mirrors, what breaks."""

import json
from datetime import datetime, timedelta

import optuna
import pytest
from mlflow.exceptions import MlflowException
from optuna.trial import TrialState, create_trial
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from support.reports import a_report, scores
from wastetune.errors import UserError
from wastetune.storage.study import DataSource
from wastetune.tracking.mlflow_runs import Changes, mirror_final, mirror_trials, sync_trials
from wastetune.tracking.mlflow_store import open_mirror
from wastetune.tracking.mlflow_uri import check_uri, render_reason

DATA = DataSource("litter", "/data/litter", "d" * 64, ("box", "leaf"), {"train": 28, "val": 7, "test": 7})
CONFIG = {"dropout": 0.25, "head_layers": 0, "head_units": None}
HISTORY = [
    {"number": 1, "loss": 0.9, "score": 0.4, "accuracy": 0.5, "seconds": 0.1},
    {"number": 2, "loss": 0.7, "score": 0.6, "accuracy": 0.6, "seconds": 0.1},
]
SCORES = scores(0.75, ["box", "leaf"]) | {"accuracy": 0.75, "f1_macro": 0.5}


def report_of(**changes):
    best = {"number": 0, "score": 0.6, "config": CONFIG}
    return a_report(study="mine", best=best, test=SCORES | changes, default_test=SCORES | {"accuracy": 0.25})


REPORT = report_of()


def open_again(uri, study_id="abc"):
    return open_mirror(uri, study="mine", study_id=study_id, data=DATA, tags={"backbone": "tiny_net"})


@pytest.fixture
def mirror(mlflow_store):
    return open_again(mlflow_store)


@pytest.fixture
def study():
    """What a worker leaves behind: a complete trial, a pruned one, one that failed, one in hand."""
    study = optuna.create_study(direction="maximize")
    record = {"config": CONFIG, "cut": "top", "seed": 7, "history": HISTORY}
    for state, value, attrs in (
        (TrialState.COMPLETE, 0.6, {**record, "best_epoch": 2, "trainable_parameters": 12, "default": True}),
        (TrialState.PRUNED, None, {**record, "history": HISTORY[:1], "origin": "old, trial 12"}),
        (TrialState.FAIL, None, {"config": CONFIG, "failure": "OSError: the disk is gone"}),
        (TrialState.RUNNING, None, record),
    ):
        study.add_trial(create_trial(state=state, value=value, user_attrs=attrs))
    return study


def runs_of(mirror):
    """name -> run, of what has not been deleted."""
    runs = mirror.client.search_runs([mirror.experiment])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run for run in runs}


def curve(mirror, run, key):
    return [(metric.step, metric.value) for metric in mirror.client.get_metric_history(run.info.run_id, key)]


def test_a_study_has_one_parent_run_however_often_it_is_opened(mirror, mlflow_store):
    again = open_again(mlflow_store)
    assert (again.experiment, again.parent) == (mirror.experiment, mirror.parent)
    (parent,) = runs_of(mirror).values()
    assert parent.info.run_name == "mine"
    assert parent.data.tags["backbone"] == "tiny_net"
    assert mirror.client.get_experiment(mirror.experiment).name == "litter"
    other = open_again(mlflow_store, study_id="def")  # begun again under the same name
    assert (other.experiment == mirror.experiment, other.parent == mirror.parent) == (True, False)


def test_each_ended_trial_is_a_child_run_in_the_state_it_ended_in(mirror, study):
    assert mirror_trials(mirror, study.get_trials()) == 3
    runs = runs_of(mirror)
    assert set(runs) == {"mine", "trial 0", "trial 1", "trial 2"}
    found = [(runs[f"trial {n}"].info.status, runs[f"trial {n}"].data.tags["state"]) for n in range(3)]
    assert found == [("FINISHED", "complete"), ("FINISHED", "pruned"), ("FAILED", "failed")]
    assert runs["trial 2"].data.tags["failure"] == "OSError: the disk is gone"
    assert "failure" not in runs["trial 0"].data.tags
    assert [runs[f"trial {n}"].data.tags.get("origin") for n in range(3)] == [None, "old, trial 12", None]
    for number in range(3):
        run = runs[f"trial {number}"]
        assert run.data.tags["mlflow.parentRunId"] == mirror.parent
        assert run.data.params == {"dropout": "0.25", "head_layers": "0", "head_units": "None"}


def test_a_child_run_has_its_curves_its_single_numbers_its_seed_and_its_times(mirror, study):
    begun = datetime(2026, 5, 4, 12, 0).astimezone().replace(tzinfo=None)
    trial = study.trials[0]
    trial.datetime_start, trial.datetime_complete = begun, begun + timedelta(seconds=90)
    mirror_trials(mirror, [trial, study.trials[1]])
    complete, pruned = (runs_of(mirror)[f"trial {n}"] for n in range(2))
    assert curve(mirror, complete, "score") == [(1, 0.4), (2, 0.6)]
    assert curve(mirror, complete, "loss") == [(1, 0.9), (2, 0.7)]
    assert curve(mirror, complete, "accuracy") == [(1, 0.5), (2, 0.6)]
    assert curve(mirror, pruned, "score") == [(1, 0.4)]
    assert "best_score" not in pruned.data.metrics
    single = {"best_score": 0.6, "best_epoch": 2, "trainable_parameters": 12, "duration_seconds": 90}
    assert {key: complete.data.metrics[key] for key in single} == single
    assert {key: complete.data.tags.get(key) for key in ("seed", "cut", "default")} == {
        "seed": "7",
        "cut": "top",
        "default": "true",
    }
    assert "default" not in pruned.data.tags
    assert complete.info.start_time == begun.timestamp() * 1000
    assert complete.info.end_time - complete.info.start_time == 90_000


def test_the_study_stands_first_then_its_final_model_then_the_best_trials(mirror, study, tmp_path):
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.71, user_attrs={"config": CONFIG}))
    (tmp_path / "results").mkdir()
    mirror_trials(mirror, study.get_trials())
    mirror_final(mirror, REPORT, tmp_path / "results")
    experiment = mirror.client.get_experiment(mirror.experiment)
    view = json.loads(experiment.tags["mlflow.sharedViewState.abc"])
    assert not view["orderByAsc"]
    runs = mirror.client.search_runs([mirror.experiment], order_by=[f"{view['orderByKey']} DESC"])
    assert [run.info.run_name for run in runs][:4] == ["mine", "mine final", "trial 4", "trial 0"]


def test_a_copy_of_an_earlier_version_is_changed_in_place(mirror, study):
    mirror_trials(mirror, study.get_trials())
    before = {name: run.info.run_id for name, run in runs_of(mirror).items()}
    pruned, best = before["trial 1"], before["trial 0"]
    ended = mirror.client.get_run(pruned).info.end_time
    mirror.client.set_terminated(pruned, status="KILLED", end_time=ended)
    mirror.client.delete_tag(best, "wastetune.order")
    assert sync_trials(mirror, study.get_trials()) == Changes(copied=0, deleted=0, there=3)
    assert {name: run.info.run_id for name, run in runs_of(mirror).items()} == before
    healed = mirror.client.get_run(pruned).info
    assert (healed.status, healed.end_time) == ("FINISHED", ended)
    assert mirror.client.get_run(best).data.tags["wastetune.order"] == "0.600000"


def test_numbers_have_four_digits(mirror, study):
    trial = study.trials[0]
    trial.value = 0.8571099982
    trial.set_user_attr("config", {"dropout": 0.34902751, "head_layers": 1})
    trial.set_user_attr("trainable_parameters", 251_131)
    mirror_trials(mirror, [trial])
    run = runs_of(mirror)["trial 0"]
    assert run.data.params == {"dropout": "0.349", "head_layers": "1"}
    assert (run.data.metrics["best_score"], run.data.metrics["trainable_parameters"]) == (0.8571, 251_131)


def test_more_epochs_than_mlflow_takes_at_once_all_arrive(mirror, study):
    trial = study.trials[0]
    trial.set_user_attr("history", [HISTORY[0] | {"number": n} for n in range(1, 601)])
    mirror_trials(mirror, [trial])
    assert len(curve(mirror, runs_of(mirror)["trial 0"], "score")) == 600


def test_the_data_set_is_an_input_of_every_run(mirror, study):
    mirror_trials(mirror, study.get_trials())
    for run in runs_of(mirror).values():
        ((data),) = (entry.dataset for entry in run.inputs.dataset_inputs)
        assert (data.name, data.digest) == ("litter", "d" * 36)
        assert json.loads(data.source) == {"uri": "/data/litter"}
        assert json.loads(data.profile) == {"classes": ["box", "leaf"], "train": 28, "val": 7, "test": 7}


def test_mirroring_again_adds_what_is_new_and_nothing_else(mirror, study, mlflow_store):
    mirror_trials(mirror, study.get_trials())
    before = {name: run.info.run_id for name, run in runs_of(mirror).items()}
    assert mirror_trials(open_again(mlflow_store), study.get_trials()) == 0
    study.tell(3, 0.8)
    assert mirror_trials(mirror, study.get_trials()) == 1
    after = runs_of(mirror)
    assert {name: run.info.run_id for name, run in after.items() if name != "trial 3"} == before
    assert after["trial 3"].data.metrics["best_score"] == 0.8


def test_a_copy_that_was_interrupted_is_made_again(mirror, study):
    mirror_trials(mirror, study.get_trials())
    half = runs_of(mirror)["trial 1"].info.run_id
    mirror.client.update_run(half, status="RUNNING")
    assert mirror_trials(mirror, study.get_trials()) == 1
    whole = runs_of(mirror)["trial 1"]
    assert whole.info.run_id != half
    assert (whole.info.status, curve(mirror, whole, "score")) == ("FINISHED", [(1, 0.4)])


def test_the_report_is_a_run_with_scores_and_files_and_is_copied_once(mirror, study, tmp_path):
    folder = tmp_path / "results"
    (folder / "bundle").mkdir(parents=True)
    (folder / "report.md").write_text("# mine")
    (folder / "bundle" / "model.keras").write_bytes(b"model")
    mirror_trials(mirror, study.get_trials())
    mirror_final(mirror, REPORT, folder)
    runs = runs_of(mirror)
    final = runs["mine final"]
    assert final.info.status == "FINISHED"
    assert final.data.params["dropout"] == "0.25"
    assert final.data.tags["mlflow.parentRunId"] == mirror.parent
    for prefix, accuracy in (("test", 0.75), ("default_test", 0.25)):
        expected = {key: value for key, value in SCORES.items() if isinstance(value, float)} | {"accuracy": accuracy}
        assert len(expected) == 8
        found = {key: final.data.metrics[f"{prefix}_{key}"] for key in expected}
        assert found == {key: float(f"{value:.4g}") for key, value in expected.items()}
    files = [entry.path for entry in mirror.client.list_artifacts(final.info.run_id)]
    assert sorted(files) == ["bundle", "report.md"]
    assert [entry.path for entry in mirror.client.list_artifacts(final.info.run_id, "bundle")] == ["bundle/model.keras"]
    parent = runs["mine"]
    assert (parent.info.status, parent.data.metrics) == (
        "FINISHED",
        {"best_score": 0.6, "test_accuracy": 0.75, "test_f1_macro": 0.5},
    )
    mirror_final(mirror, REPORT, folder)
    assert runs_of(mirror)["mine final"].info.run_id == final.info.run_id
    mirror_final(mirror, report_of(accuracy=1.0), folder)
    newer = runs_of(mirror)["mine final"]
    assert newer.info.run_id != final.info.run_id
    assert newer.data.metrics["test_accuracy"] == 1.0
    assert mirror_trials(mirror, study.get_trials()) == 0


def test_only_what_is_asked_for_is_searched_for_and_repaired(mirror, study):
    """Another process may be in the middle of copying its own trials."""
    mirror_trials(mirror, study.get_trials())
    others = runs_of(mirror)["trial 1"].info.run_id
    mirror.client.update_run(others, status="RUNNING")
    assert mirror_trials(mirror, [study.trials[0], study.trials[2]]) == 0
    assert runs_of(mirror)["trial 1"].info.run_id == others


def test_a_new_store_is_made_whole_also_after_one_that_was_begun_and_left(tmp_path):
    (tmp_path / "mlflow.db.new").write_text("half of the tables")
    mirror = open_again(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert set(runs_of(mirror)) == {"mine"}
    left = {path.name for path in tmp_path.iterdir()} - {"mlflow.db.lock"}  # which some versions of filelock delete
    assert left == {"mlflow.db", "artifacts"}


def test_what_can_never_be_a_store_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.db").write_text("not a database " * 100)
    for uri, reason in {
        "foo://me:geheim@h/x": "MLflow knows no foo://",
        "postgresql://me:geheim@h:p/x": "invalid literal",
        "mysql+nodriver://me:geheim@h/x": "Can't load plugin",
        "file:./mlruns": "keeps runs in a database or on a server",
        "mlruns": "keeps runs in a database or on a server",
        "": "keeps runs in a database or on a server",
        "http://:5000": "it names no host",
        "http://me:geheim@h:p": "Port could not be cast",
        "sqlite://": "it names no file",
        "sqlite:///notes.db": "notes.db is no SQLite database",
        "sqlite:///notes.db/mlflow.db": "File exists",
    }.items():
        with pytest.raises(UserError, match=r"the MLflow store cannot be opened .*; check --tracking-uri") as error:
            check_uri(uri)
        assert reason in str(error.value)
        assert "\n" not in str(error.value)
        assert "geheim" not in str(error.value)


def test_what_may_be_a_store_is_not_refused(mlflow_store):
    for uri in (mlflow_store, "sqlite:///new/mlflow.db", "http://nowhere.invalid:5000/", "https://h", "databricks"):
        check_uri(uri)


def test_a_reason_has_one_line_and_no_password():
    uri = "http://me:geheim@host:5000/"
    error = OSError("API request to http://me:geheim@host:5000/api/2.0/mlflow failed\nand more")
    assert render_reason(error, uri) == "API request to http://me:***@host:5000/api/2.0/mlflow failed"
    assert render_reason(TimeoutError(), uri) == "TimeoutError"


def test_of_a_full_disk_the_databases_own_words_are_said():
    with create_engine("sqlite://").connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 2")
        with pytest.raises(OperationalError) as full:
            connection.exec_driver_sql("CREATE TABLE runs AS SELECT zeroblob(100000) AS a")
    error = MlflowException(f"(raised as a result of Query-invoked autoflush)\n{full.value}")
    error.__context__ = full.value
    assert render_reason(error, "sqlite:///mlflow.db") == "database or disk is full"


def test_a_sync_brings_the_mirror_to_the_truth_and_the_next_one_changes_nothing(mirror, study):
    mirror_trials(mirror, study.get_trials())
    client, runs = mirror.client, runs_of(mirror)
    right = runs["trial 0"].info.run_id

    def copy_of(number, parent, status, start_time=None):
        tags = runs["trial 0"].data.tags | {"wastetune.trial": number, "mlflow.parentRunId": parent}
        del tags["mlflow.runName"]
        run = client.create_run(mirror.experiment, run_name=f"trial {number}", tags=tags, start_time=start_time)
        client.set_terminated(run.info.run_id, status=status)
        return run.info.run_id

    wrong = [
        copy_of("0", mirror.parent, "FINISHED", runs["trial 0"].info.start_time + 1000),  # two mirrors at once
        copy_of("17", mirror.parent, "FINISHED"),  # no such trial
    ]
    client.set_tag(runs["trial 1"].info.run_id, "state", "failed")  # it was pruned
    client.delete_run(runs["trial 2"].info.run_id)
    second = client.create_run(mirror.experiment, run_name="mine", tags=runs["mine"].data.tags)
    client.set_tag(right, "mlflow.parentRunId", second.info.run_id)  # two studies begun at once
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"failure": "not run", "void": True}))

    assert sync_trials(mirror, study.get_trials()) == Changes(copied=2, deleted=4, there=1)
    after = runs_of(mirror)
    assert set(after) == {"mine", "trial 0", "trial 1", "trial 2"}
    assert after["trial 0"].info.run_id == right
    assert not {run.info.run_id for run in after.values()} & {*wrong, second.info.run_id}
    assert [after[f"trial {n}"].info.status for n in range(3)] == ["FINISHED", "FINISHED", "FAILED"]
    assert {after[f"trial {n}"].data.tags["mlflow.parentRunId"] for n in range(3)} == {mirror.parent}
    assert after["mine"].info.status == "FINISHED"
    assert sync_trials(mirror, study.get_trials()) == Changes(copied=0, deleted=0, there=3)


TOGETHER = """
import os, sys
from multiprocessing import get_context
from mlflow import MlflowClient
from wastetune.storage.study import DataSource
from wastetune.tracking.mlflow_store import open_mirror
uri, count = sys.argv[1], int(sys.argv[2])
data = DataSource("litter", "/data/litter", "d" * 64, ("box", "leaf"), {"train": 28, "val": 7, "test": 7})
wait, children = get_context("fork").Barrier(count).wait, []
for _ in range(count):
    if not (child := os.fork()):
        wait()
        mirror = open_mirror(uri, study="mine", study_id="abc", data=data, tags={})
        os.write(1, f"{mirror.experiment} {mirror.parent}\\n".encode())
        os._exit(0)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


def test_four_processes_may_open_a_new_store_at_once(url, start_python):
    """They are forked from one process that has imported MLflow, so that they come at the same moment."""
    process = start_python(TOGETHER, url, 4)  # each takes seconds to try to create the tables
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr[-3000:]
    lines = stdout.splitlines()
    assert len(lines) == 4
    assert len(set(lines)) == 1
