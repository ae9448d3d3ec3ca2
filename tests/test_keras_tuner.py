"""`OptunaOracle`: it behaves as KerasTuner's own oracles do, and its trials are those of a study in SQL.

The first part is what KerasTuner's tests of oracles and tuners check, in our words, for its `RandomSearchOracle` and
for ours. The second is what only ours has.
"""

import math
import os
import signal
import time

import numpy as np
import psutil
import pytest

from wastetune.api import load_trials
from wastetune.errors import UserError
from wastetune.storage.budget import LOST
from wastetune.storage.database import open_storage
from wastetune.storage.study import best_trial, find_study, get_study_attr
from wastetune.tuning.workers.progress import describe_status

keras_tuner = pytest.importorskip("keras_tuner")
pytest.importorskip("tensorboard")  # KerasTuner asks for it in every search of a Keras model

from wastetune.keras_tuner import OptunaOracle  # noqa: E402  (it needs KerasTuner)

base_tuner = keras_tuner.engine.base_tuner


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'kt.db'}"


@pytest.fixture(params=["theirs", "ours"])
def make(request, tmp_path, url):
    """An oracle with a project folder, KerasTuner's or ours."""

    def build(**options):
        if request.param == "ours":
            oracle = OptunaOracle(study="mine", storage=url, **options)
        else:
            oracle = keras_tuner.oracles.RandomSearchOracle(**options)
        oracle.verbose = 0
        oracle._set_project_dir(tmp_path, "project")
        return oracle

    return build


@pytest.fixture
def ours(tmp_path, url):
    def build(study="mine", **options):
        oracle = OptunaOracle(
            study=study, storage=url, **{"objective": "val_loss", "hyperparameters": space()} | options
        )
        oracle.verbose = 0
        oracle._set_project_dir(tmp_path, "project")
        return oracle

    return build


def space():
    hp = keras_tuner.HyperParameters()
    hp.Float("rate", 0.0, 1.0, default=0.25)
    hp.Choice("kind", ["plain", "deep"])
    with hp.conditional_scope("kind", ["deep"]):
        hp.Int("layers", 2, 9)
    hp.Fixed("size", 32)
    return hp


def end(oracle, trial, value=None, status="COMPLETED", message=None):
    if value is not None:
        oracle.update_trial(trial.trial_id, {"val_loss": value})
    trial.status, trial.message = status, message
    oracle.end_trial(trial)


def study_of(url, name="mine"):
    return find_study(open_storage(url), name)


# What KerasTuner's oracles do.


def test_a_tuner_gets_its_trial_until_it_has_ended_it(make):
    oracle = make(objective="val_loss", hyperparameters=space(), max_trials=5)
    first = oracle.create_trial("a")
    assert oracle.create_trial("a") is first
    assert oracle.create_trial("b").trial_id != first.trial_id
    assert len(oracle.ongoing_trials) == 2
    end(oracle, first, 0.5)
    assert oracle.create_trial("a").trial_id != first.trial_id
    assert [int(oracle.get_trial(trial_id).trial_id) for trial_id in oracle.start_order] == [0, 1, 2]


def test_only_active_hyperparameters_have_values_and_those_are_in_range(make):
    oracle = make(objective="val_loss", hyperparameters=space(), max_trials=12, seed=1)
    kinds = set()
    for number in range(12):
        values = oracle.create_trial(str(number)).hyperparameters.values
        kinds.add(values["kind"])
        assert ("layers" in values) == (values["kind"] == "deep")
        assert 0 <= values["rate"] <= 1
        assert 2 <= values.get("layers", 2) <= 9
        assert values["size"] == 32
    assert kinds == {"plain", "deep"}


@pytest.mark.parametrize(("objective", "best"), [("val_loss", [0.1, 0.4]), ("val_accuracy", [0.9, 0.4])])
def test_the_best_trials_come_first_in_the_objectives_direction(make, objective, best):
    oracle = make(objective=objective, hyperparameters=space(), max_trials=3)
    for value in (0.4, 0.9, 0.1):
        trial = oracle.create_trial("a")
        oracle.update_trial(trial.trial_id, {objective: value})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    assert [trial.score for trial in oracle.get_best_trials(2)] == best
    assert len(oracle.get_best_trials(9)) == 3


def test_the_score_is_the_best_step_of_the_mean_over_executions(make):
    oracle = make(objective="val_loss", hyperparameters=space(), max_trials=3)
    trial = oracle.create_trial("a")
    for step, value in ((0, 0.8), (1, 0.2), (1, 0.4), (2, 0.9)):
        oracle.update_trial(trial.trial_id, {"val_loss": value, "other": 1.0}, step=step)
    end(oracle, trial)
    assert oracle.get_trial(trial.trial_id).score == pytest.approx(0.3)
    assert oracle.get_trial(trial.trial_id).best_step == 1


def test_metrics_without_the_objective_are_refused(make):
    oracle = make(objective="val_loss", hyperparameters=space())
    with pytest.raises(ValueError, match="Objective value missing in metrics"):
        oracle.update_trial(oracle.create_trial("a").trial_id, {"loss": 1.0})


def test_so_many_trials_and_then_it_stops(make):
    oracle = make(objective="val_loss", hyperparameters=space(), max_trials=2)
    assert oracle.remaining_trials() == 2
    end(oracle, oracle.create_trial("a"), 0.5)
    assert oracle.remaining_trials() == 1
    running = oracle.create_trial("a")
    assert oracle.create_trial("b").status == "STOPPED"
    end(oracle, running, status="FAILED")  # uses up budget, too
    assert oracle.create_trial("a").status == "STOPPED"
    assert oracle.remaining_trials() == 0
    assert oracle.tuner_ids <= {"a"}


def test_a_space_without_new_values_stops_it(make):
    hp = keras_tuner.HyperParameters()
    hp.Boolean("one")
    hp.Int("two", 1, 2)
    oracle = make(objective="val_loss", hyperparameters=hp, max_trials=9, seed=0)
    seen = []
    while (trial := oracle.create_trial("a")).status == "RUNNING":
        seen.append(tuple(trial.hyperparameters.values.values()))
        end(oracle, trial, 0.5)
    assert trial.status == "STOPPED"
    assert len(seen) == len(set(seen)) == 4


def test_an_invalid_trial_is_retried_as_often_as_it_may_be(make):
    oracle = make(objective="val_loss", hyperparameters=space(), max_retries_per_trial=1)
    first = oracle.create_trial("a")
    end(oracle, first, status="INVALID", message="error1")
    assert oracle.create_trial("a").trial_id == first.trial_id
    assert oracle.create_trial("b").trial_id != first.trial_id
    end(oracle, first, status="INVALID", message="error2")
    assert oracle.get_trial(first.trial_id).status == "FAILED"
    assert int(oracle.create_trial("a").trial_id) == 2


@pytest.mark.parametrize(("status", "retries"), [("INVALID", 0), ("FAILED", 1)])
def test_a_trial_is_not_retried_without_retries_nor_where_it_says_so(make, status, retries):
    oracle = make(objective="val_loss", hyperparameters=space(), max_retries_per_trial=retries)
    first = oracle.create_trial("a")
    end(oracle, first, status=status, message="error1")
    assert oracle.create_trial("a").trial_id != first.trial_id


@pytest.mark.filterwarnings("ignore:All-NaN axis encountered")
def test_a_score_that_is_no_number_is_invalid(make):
    oracle = make(objective="val_loss", hyperparameters=space(), max_retries_per_trial=1)
    trial = oracle.create_trial("a")
    end(oracle, trial, math.nan)
    assert oracle.get_trial(trial.trial_id).status == "INVALID"


def test_it_gives_up_after_failures_in_a_row_but_not_before(make):
    oracle = make(objective="val_loss", hyperparameters=space(), max_trials=20)
    for status in ("FAILED", "FAILED", "COMPLETED", "FAILED", "FAILED"):
        end(oracle, oracle.create_trial("a"), 0.5 if status == "COMPLETED" else None, status=status)
    with pytest.raises(RuntimeError, match=r"(?s)Number of consecutive failures exceeded the limit of 3.*my error"):
        end(oracle, oracle.create_trial("a"), status="FAILED", message="my error")


def test_the_old_way_to_end_a_trial(make):
    oracle = make(objective="val_loss", hyperparameters=space())
    trial = oracle.create_trial("a")
    oracle.update_trial(trial.trial_id, {"val_loss": 1.0})
    oracle.end_trial(trial.trial_id, "COMPLETED")
    assert oracle.get_trial(trial.trial_id).score == 1.0


def test_what_a_build_asks_for_the_first_time_is_searched_from_then_on(make):
    oracle = make(objective="val_loss", hyperparameters=space(), max_trials=9)
    trial = oracle.create_trial("a")
    assert trial.hyperparameters.Int("late", 1, 100, default=7) == 7
    end(oracle, trial, 0.5)
    assert [hp.name for hp in oracle.get_space().space] == ["rate", "kind", "layers", "size", "late"]
    assert "late" in oracle.create_trial("a").hyperparameters.values


def test_new_entries_can_be_forbidden_or_left_at_their_default(make):
    oracle = make(objective="val_loss", hyperparameters=space(), allow_new_entries=False)
    trial = oracle.create_trial("a")
    trial.hyperparameters.Int("late", 1, 100)
    with pytest.raises(RuntimeError, match="`allow_new_entries` is `False`, but found new entries"):
        oracle.update_space(trial.hyperparameters)


def test_entries_that_are_not_tuned_keep_their_default(make):
    oracle = make(objective="val_loss", hyperparameters=space(), tune_new_entries=False, max_trials=3)
    for _ in range(3):
        trial = oracle.create_trial("a")
        assert "late" not in trial.hyperparameters.values
        assert trial.hyperparameters.Int("late", 1, 100, default=7) == 7
        end(oracle, trial, 0.5)


class Parabola(base_tuner.BaseTuner):
    """Tunes anything: its space is only known when a trial has run."""

    def run_trial(self, trial, shift):
        x = trial.hyperparameters.Float("x", -4.0, 4.0)
        return (x - shift) ** 2

    def load_model(self, trial):
        return trial.hyperparameters.get("x")


def test_a_tuner_of_something_else_without_objective_or_hypermodel(make, tmp_path):
    oracle = make(max_trials=6, seed=2)
    tuner = Parabola(oracle=oracle, directory=tmp_path, project_name="project")
    tuner.search(1.5)
    assert len(oracle.trials) == 6
    scores = [(tuner.load_model(trial) - 1.5) ** 2 for trial in oracle.trials.values()]
    assert (tuner.get_best_models()[0] - 1.5) ** 2 == pytest.approx(min(scores))
    assert tuner.remaining_trials == 0


def test_a_tuner_without_any_hyperparameter_runs_one_trial(make, tmp_path):
    class Constant(base_tuner.BaseTuner):
        def run_trial(self, trial):
            return 1.0

    oracle = make(max_trials=4)
    Constant(oracle=oracle, directory=tmp_path, project_name="project").search()
    assert len(oracle.trials) == 1


def test_errors_are_retried_and_fatal_ones_are_raised(make, tmp_path):
    class Failing(base_tuner.BaseTuner):
        count = 0

        def run_trial(self, trial):
            self.count += 1
            trial.hyperparameters.Float("x", 0.0, 1.0)
            if self.count == 2:
                raise ValueError("not this one")
            if self.count == 5:
                raise keras_tuner.errors.FatalError("the end")
            return 0.5

    tuner = Failing(oracle=make(max_trials=9, max_retries_per_trial=1), directory=tmp_path, project_name="project")
    with pytest.raises(keras_tuner.errors.FatalError, match="the end"):
        tuner.search()
    assert [trial.status for trial in tuner.oracle.trials.values()] == [
        "COMPLETED",
        "COMPLETED",
        "COMPLETED",
        "RUNNING",
    ]


def test_a_tuner_that_is_made_again_goes_on(make, tmp_path):
    def tuner(trials):
        oracle = make(max_trials=trials, seed=2)
        return Parabola(oracle=oracle, directory=tmp_path, project_name="project")

    first = tuner(3)
    first.search(1.5)
    again = tuner(5)
    assert {key: trial.score for key, trial in again.oracle.trials.items()} == {
        key: trial.score for key, trial in first.oracle.trials.items()
    }
    assert again.remaining_trials == 2
    assert [hp.name for hp in again.oracle.get_space().space] == ["x"]
    again.search(1.5)
    assert len(again.oracle.trials) == 5


def build_model(hp):
    import keras

    model = keras.Sequential([keras.Input((2,))])
    for number in range(hp.Int("layers", 1, 2)):
        model.add(keras.layers.Dense(hp.Int(f"units_{number}", 4, 8, step=2), activation="relu"))
    model.add(keras.layers.Dense(1, activation="sigmoid"))
    optimizer = keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log"))
    model.compile(optimizer, loss="binary_crossentropy", metrics=["accuracy"])
    return model


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_keras_models_are_searched_summed_up_and_loaded(make, tmp_path, capsys):
    import keras

    x = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    y = (x[:, :1] > 0).astype(np.float32)
    oracle = make(objective=["val_accuracy", keras_tuner.Objective("val_loss", "min")], max_trials=2, seed=0)
    tuner = keras_tuner.Tuner(oracle=oracle, hypermodel=build_model, directory=tmp_path, project_name="project")
    tuner.search_space_summary()
    stop = keras.callbacks.EarlyStopping(monitor="val_loss")
    tuner.search(x, y, validation_data=(x, y), epochs=2, verbose=0, callbacks=[stop])
    tuner.results_summary()
    assert "Default search space size: 3" in (printed := capsys.readouterr().out)
    assert "Score: " in printed
    best = tuner.get_best_models()[0]
    score = tuner.oracle.get_best_trials()[0]
    assert best.predict(x, verbose=0).shape == (32, 1)
    assert score.metrics.exists("val_accuracy")
    assert tuner.hypermodel.build(tuner.get_best_hyperparameters()[0]).count_params() == best.count_params()


# What only ours has.


def test_the_trials_are_those_of_a_study(ours, url):
    oracle = ours(max_trials=4)
    first = oracle.create_trial("a")
    assert first.hyperparameters.values == {"rate": 0.25, "kind": "plain", "size": 32}  # trial 0 is the default
    oracle.update_trial(first.trial_id, {"val_loss": 0.7}, step=3)
    first.hyperparameters.Int("late", 1, 100, sampling="log", default=7)
    end(oracle, first)
    end(oracle, oracle.create_trial("a"), 0.4)
    end(oracle, oracle.create_trial("a"), status="FAILED", message="Traceback\n  a line\nValueError: too large\n")
    study = study_of(url)
    states = [(trial.number, trial.state.name, trial.value) for trial in study.trials]
    assert states == [(0, "COMPLETE", 0.7), (1, "COMPLETE", 0.4), (2, "FAIL", None)]
    assert study.direction.name == "MINIMIZE"
    assert study.trials[0].params == {"rate": 0.25, "kind": "plain", "late": 7}
    assert study.trials[0].intermediate_values == {3: 0.7}
    assert study.trials[0].user_attrs["config"]["late"] == 7
    assert study.trials[2].user_attrs["failure"] == "ValueError: too large"
    assert best_trial(study).number == 1
    assert (get_study_attr(study, "trials"), describe_status(study)["best"]["trial"]) == (4, 1)
    assert load_trials("mine", storage=url)["kind"].iloc[0] == "plain"


def test_another_objective_is_another_study(ours):
    ours()
    with pytest.raises(UserError, match=r"begun with another objective .*val_loss.*val_accuracy"):
        ours(objective="val_accuracy")
    ours(study="yours", objective="val_accuracy")


def test_it_learns(ours, tmp_path, url):
    tuner = Parabola(oracle=ours(objective=None, hyperparameters=None, max_trials=25, seed=0), directory=tmp_path)
    tuner.search(1.5)
    scores = [trial.value for trial in study_of(url).trials]
    assert np.mean(scores[15:]) < np.mean(scores[1:9]) / 2


def of_another_process(oracle, trial, pid, started):
    running, _ = oracle._held[trial.trial_id]
    owner = {**study_of_running(running).user_attrs["owner"], "pid": pid, "started": started}
    owner.pop("ticks", None)  # by which it would be known as this process
    running.storage.set_trial_user_attr(running.id, "owner", owner)


def study_of_running(running):
    return running.study.trials[running.number]


def test_the_trial_of_a_process_that_is_gone_is_tried_again(ours, url):
    oracle = ours(max_trials=2, seed=0)
    end(oracle, oracle.create_trial("a"), 0.5)
    lost = oracle.create_trial("a")
    of_another_process(oracle, lost, 2**22 + 1, 1.0)
    other = ours(max_trials=2, seed=0)
    again = other.create_trial("a")
    assert (again.trial_id, again.hyperparameters.values) == ("0002", lost.hyperparameters.values)
    end(other, again, 0.4)
    assert study_of(url).trials[1].user_attrs["failure"] == LOST
    assert other.create_trial("a").status == "STOPPED"
    assert sorted(trial.score for trial in other.get_best_trials(2)) == [0.4, 0.5]
    end(oracle, lost, 0.1)  # it was presumed dead, and was not: its result comes too late
    assert lost.trial_id not in oracle.trials


def test_a_lost_trial_is_tried_again_in_a_space_that_has_grown_since(ours):
    oracle = ours(max_trials=3, seed=0)
    lost, other = oracle.create_trial("a"), oracle.create_trial("b")
    other.hyperparameters.Int("late", 1, 100, default=7)
    end(oracle, other, 0.5)
    of_another_process(oracle, lost, 2**22 + 1, 1.0)
    again = oracle.create_trial("c")
    assert again.hyperparameters.values == {**lost.hyperparameters.values, "late": 7}


def test_more_trials_do_not_change_the_names_of_those_that_are_there(ours):
    oracle = ours(max_trials=9)
    trial = oracle.create_trial("a")
    end(oracle, trial, 0.5)
    assert list(ours(max_trials=1000).get_best_trials()[0].trial_id) == list(trial.trial_id)


def test_it_waits_for_the_last_trials_of_other_processes(ours, monkeypatch):
    monkeypatch.setattr("wastetune.keras_tuner._WAIT", 0.0)
    oracle = ours(max_trials=1)
    theirs = oracle.create_trial("a")
    alive = psutil.Process(os.getppid())
    of_another_process(oracle, theirs, alive.pid, alive.create_time())
    other = ours(max_trials=1)
    assert other.create_trial("a").status == "IDLE"
    end(oracle, theirs, 0.5)
    assert other.create_trial("a").status == "STOPPED"
    assert other.get_best_trials()[0].score == 0.5


def test_a_cell_that_was_interrupted_is_taken_up_by_the_next(ours, url):
    interrupted = ours(max_trials=1).create_trial("a")
    again = ours(max_trials=1).create_trial("a")
    assert again.hyperparameters.values == interrupted.hyperparameters.values
    assert study_of(url).trials[0].user_attrs["handed_back"]


def test_one_name_for_two_kinds_of_values_is_one_sentence(ours):
    hp = keras_tuner.HyperParameters()
    kind = hp.Choice("kind", ["a", "b"])
    for each in ("a", "b"):
        with hp.conditional_scope("kind", [each]):
            hp.Choice("size", [1, 2] if each == "a" else [3, 4])
    assert kind == "a"
    with pytest.raises(UserError, match="the hypermodel: 'size' stands for two kinds of values"):
        ours(hyperparameters=hp).create_trial("a")


def test_a_default_outside_of_its_range_does_not_stop_a_script_that_runs_with_keras_tuner(ours):
    hp = keras_tuner.HyperParameters()
    hp.Int("units", 8, 32, step=8, default=100)
    assert ours(hyperparameters=hp).create_trial("a").hyperparameters.values == {"units": 8}


SCRIPT = """
import sys, time
from wastetune.keras_tuner import OptunaOracle, keras_tuner

class Slow(keras_tuner.engine.base_tuner.BaseTuner):
    def run_trial(self, trial):
        print("runs", flush=True)
        time.sleep(float(sys.argv[1]))
        return trial.hyperparameters.Float("x", 0.0, 1.0)

oracle = OptunaOracle(study="mine", storage=sys.argv[2], max_trials=8)
oracle.verbose = 0
Slow(oracle=oracle, directory="kt").search()
print(len(oracle.get_best_trials(99)))
"""


@pytest.mark.slow
def test_processes_of_one_script_share_the_study_and_one_may_be_killed(start_python, url):
    def start(seconds):
        return start_python(SCRIPT, str(seconds), url)

    stuck = start(600)
    assert stuck.stdout.readline() == "runs\n"
    workers = [start(0.3), start(0.3)]
    time.sleep(1.0)
    stuck.send_signal(signal.SIGKILL)
    stuck.communicate(timeout=60)
    for worker in workers:
        stdout, stderr = worker.communicate(timeout=120)
        assert worker.returncode == 0, stderr
        assert stdout.splitlines()[-1] == "8"
    states = [trial.state.name for trial in study_of(url).trials]
    assert sorted(states) == ["COMPLETE"] * 8 + ["FAIL"]
    owners = {trial.user_attrs["owner"]["pid"] for trial in study_of(url).trials if trial.state.name == "COMPLETE"}
    assert len(owners) == 2
