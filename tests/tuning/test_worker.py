"""The worker on a study small enough to train for real: the budget, what fails, what is interrupted, what repeats."""

import errno
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from wastetune.backbones.activation_store import open_store
from wastetune.console import open_console
from wastetune.errors import UserError
from wastetune.search.sampler import open_in_memory_study
from wastetune.search.space import default_params, load_space
from wastetune.storage.database import open_storage
from wastetune.storage.study import ask_lock, default_trial, finished_trials, open_study
from wastetune.storage.trials import fail_lost_trials
from wastetune.tuning.objective import choose_config, run_trial, tuning_sets
from wastetune.tuning.prepare import TuningData
from wastetune.tuning.workers.worker import NotTimed, TimeLimit, _begin, _choose, run_worker

FIXED = "dropout = 0.1\nlearning_rate = 1e-2\nbatch_size = 16\nepochs = 2\n"


@pytest.fixture
def begin(tmp_path, context):
    """A new study in a file of its own."""

    def begin_study(context=context, name="mine"):
        return open_study(open_storage(f"sqlite:///{tmp_path / name}.db"), name, {"data": "d1"})

    return begin_study


@pytest.fixture
def with_space(context, tmp_path):
    def build(text, context=context):
        path = tmp_path / "space.toml"
        path.write_text(text)
        return replace(context, space=load_space(str(path)))

    return build


@pytest.fixture
def interrupted_by(context, tmp_path):
    """The setting with an empty store, and training pictures that cannot be read the first so many times."""

    def build(error, times=1):
        def read(positions):
            nonlocal times
            times -= 1
            if times >= 0:
                raise error
            return context.data.train.read(positions)

        train = replace(context.data.train, read=read)
        return replace(context, store=open_store(tmp_path), data=TuningData(train, context.data.val))

    return build


def run(study, context, trials, timeout=None, on_trial=lambda trial: None):
    run_worker(study, context, trials=trials, timeout=timeout, bar=open_console().bar, on_trial=on_trial)


def states(study):
    return [trial.state.name for trial in study.trials]


def test_so_many_trials_are_finished_and_running_again_adds_the_difference(begin, context):
    study, told = begin(), []
    run(study, context, 2, on_trial=told.append)
    assert states(study) == ["COMPLETE"] * 2
    assert [trial.number for trial in told] == [0, 1]
    run(study, context, 2, on_trial=told.append)
    assert len(told) == 2
    run(study, context, 3, on_trial=told.append)
    assert states(study) == ["COMPLETE"] * 3
    assert [(trial.number, trial.value) for trial in told] == [(n, study.trials[n].value) for n in range(3)]


def test_trial_0_is_the_default_configuration_and_each_trial_leaves_its_record(begin, context):
    study = begin()
    run(study, context, 2)
    default, other = study.trials
    assert default.user_attrs["default"] is True
    assert default.params == default_params(context.space)
    assert "default" not in other.user_attrs
    for trial in study.trials:
        record = trial.user_attrs
        assert {key: record["config"][key] for key in ("epochs", "batch_size")} == {"epochs": 2, "batch_size": 16}
        assert record["cut"] == ("top" if record["config"]["frozen_depth"] == 1 else "block_out")
        scores = [epoch["score"] for epoch in record["history"]]
        assert (trial.value, record["best_epoch"]) == (max(scores), 1 + scores.index(max(scores)))
        assert trial.intermediate_values == {1: scores[0], 2: scores[1]}
        assert np.sum(record["confusion_matrix"]) == len(context.data.val)
        right = np.trace(record["confusion_matrix"]) / len(context.data.val)
        assert record["val_accuracy"] == pytest.approx(right)
        assert record["activation_seconds"] >= 0
    assert default.user_attrs["trainable_parameters"] == (12 + 1) * 2
    assert default.user_attrs["seed"] != other.user_attrs["seed"]


def test_no_configuration_runs_twice_and_an_exhausted_space_is_told(begin, with_space):
    context = with_space('head_layers = 0\noptimizer = { choice = ["adam", "sgd"], default = "adam" }\n' + FIXED)
    study, told = begin(context), []
    with pytest.raises(UserError, match=r"space\.toml has no configuration left that was not tried in 2 trials"):
        run(study, context, 3, on_trial=told.append)
    assert [trial.user_attrs["config"]["optimizer"] for trial in told] == ["adam", "sgd"]
    assert len(study.trials) == 2


def test_what_the_space_enqueues_runs_once_after_the_default(begin, with_space):
    space = "head_layers = { int = [0, 2], default = 0 }\nhead_units = 8\n" + FIXED
    context = with_space(
        space + "[[enqueue]]\nhead_layers = 2\n[[enqueue]]\nhead_layers = 0\n[[enqueue]]\nhead_layers = 1\n"
    )
    study, told = begin(context), []
    with pytest.raises(UserError, match="not tried in 3 trials"):
        run(study, context, 4, on_trial=told.append)
    assert [trial.user_attrs["config"]["head_layers"] for trial in told] == [0, 2, 1]


def test_depths_and_strengths_that_act_alike_are_the_same_configuration(begin, with_space):
    space = "head_layers = 0\nfrozen_depth = { float = [0.97, 1.0], default = 1.0 }\n"
    space += "augmentation = { float = [0.0, 0.4], default = 0.0 }\n"  # of two views, that is always the plain one
    context = with_space(space + FIXED)
    study = begin(context)
    with pytest.raises(UserError, match="not tried in 1 trials"):
        run(study, context, 2)


def test_a_failed_trial_has_a_reason_and_no_value_and_the_default_gets_its_turn_again(begin, interrupted_by):
    context = interrupted_by(OSError("the disk is gone\nat sector 7"))
    study, told = begin(), []
    run(study, context, 2, on_trial=told.append)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    failed, default, other = study.trials
    assert (failed.value, failed.user_attrs["failure"]) == (None, "OSError: the disk is gone")
    assert default.user_attrs["config"] == failed.user_attrs["config"]
    assert [trial.user_attrs.get("default") for trial in (failed, default, other)] == [True, True, None]
    assert default_trial(study).number == 1
    assert [trial.number for trial in told] == [0, 1, 2]


def test_five_failures_in_a_row_stop_with_a_sentence(begin, interrupted_by):
    context = interrupted_by(OSError("the disk is gone"), times=5)
    study = begin()
    with pytest.raises(UserError, match="5 trials in a row failed, the last one with: OSError: the disk is gone; mend"):
        run(study, context, 1)
    assert states(study) == ["FAIL"] * 5
    run(study, context, 1)
    assert states(study) == ["FAIL"] * 5 + ["COMPLETE"]


def test_four_failures_in_a_row_do_not(begin, interrupted_by):
    study = begin()
    run(study, interrupted_by(OSError("the disk is gone"), times=4), 1)
    assert states(study) == ["FAIL"] * 4 + ["COMPLETE"]


def test_a_mistake_of_the_user_stops_at_once(begin, interrupted_by):
    study = begin()
    with pytest.raises(UserError, match="a picture has changed"):
        run(study, interrupted_by(UserError("a picture has changed")), 1)
    assert states(study) == ["FAIL"]
    assert "mistake" in study.trials[0].user_attrs["failure"]


def test_what_is_interrupted_has_failed_and_the_next_run_goes_on(begin, interrupted_by):
    context = interrupted_by(KeyboardInterrupt())
    study, told = begin(), []
    with pytest.raises(KeyboardInterrupt):
        run(study, context, 1, on_trial=told.append)
    assert (states(study), study.trials[0].user_attrs["failure"], told) == (["FAIL"], "interrupted", [])
    run(study, context, 1, on_trial=told.append)
    assert states(study) == ["FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs["default"] is True


def test_after_the_timeout_no_trial_begins(begin, context):
    study = begin()
    run(study, context, 5, timeout=2, on_trial=lambda trial: time.sleep(2))
    assert states(study) == ["COMPLETE"]


def test_what_there_is_no_time_for_is_passed_over_or_shortened_and_without_time_for_any_the_search_ends(
    begin, with_space, prepared
):
    context = with_space(
        "head_layers = 0\nfrozen_depth = { float = [0.0, 1.0], default = 1.0 }\n"
        + FIXED
        + "[[enqueue]]\nfrozen_depth = 0.0\n[[enqueue]]\nfrozen_depth = 0.7\n",
        prepared.context,
    )
    asked = []

    def afford(known, config):
        asked.append((len(known), config.frozen_depth))
        if len(known) == 2 or config.frozen_depth == 0:
            return None
        return config.model_copy(update={"epochs": 1})

    study = begin(context)
    bar = open_console(quiet=True).bar
    run_worker(study, context, trials=9, timeout=None, bar=bar, on_trial=lambda trial: None, limit=TimeLimit(afford))
    default, other = study.trials
    assert (default.user_attrs["config"]["epochs"], other.user_attrs["config"]["epochs"]) == (2, 1)
    assert other.user_attrs["config"]["frozen_depth"] == pytest.approx(2 / 3)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    assert asked[:2] == [(1, 0.0), (1, pytest.approx(2 / 3))]
    assert {known for known, _ in asked} == {1, 2}


def test_what_has_to_be_timed_first_is_timed_while_other_workers_may_choose(begin, with_space, monkeypatch):
    searched = "head_layers = 0\ndropout = { float = [0.0, 0.5], default = 0.1 }\n"
    context = with_space(searched + FIXED.partition("\n")[2])
    held, was_held = 0, []

    @contextmanager
    def lock(study):
        nonlocal held
        held += 1
        try:
            with ask_lock(study):
                yield
        finally:
            held -= 1

    def afford(known, config):
        if not was_held:
            assert held == 1
            raise NotTimed(lambda: was_held.append(held))
        return config

    monkeypatch.setattr("wastetune.tuning.workers.worker.ask_lock", lock)
    study, bar = begin(context), open_console(quiet=True).bar
    run_worker(study, context, trials=2, timeout=None, bar=bar, on_trial=lambda trial: None, limit=TimeLimit(afford))
    assert was_held == [0]
    assert states(study) == ["COMPLETE"] * 2


def test_what_comes_later_runs_when_nothing_else_is_proposed(begin, with_space):
    context = with_space(
        "head_layers = 0\nfrozen_depth = { choice = [0.6, 1.0], default = 1.0 }\n"
        "augmentation = { choice = [0.0, 1.0], default = 0.0 }\n" + FIXED + "[[enqueue]]\nfrozen_depth = 0.6\n"
    )
    limit = TimeLimit(is_later=lambda known, config: config.frozen_depth < 1)
    study, bar = begin(context), open_console(quiet=True).bar
    run_worker(study, context, trials=3, timeout=None, bar=bar, on_trial=lambda trial: None, limit=limit)
    configs = [trial.user_attrs["config"] for trial in study.trials]
    assert [(config["frozen_depth"] < 1, config["augmentation"]) for config in configs] == [
        (False, 0.0),
        (False, 1.0),
        (True, 0.0),
    ]


def test_a_configuration_that_was_shortened_does_not_run_again_with_other_epochs(begin, with_space):
    context = with_space(
        "head_layers = 0\ndropout = { float = [0.0, 0.5], default = 0.1 }\n" + FIXED.partition("\n")[2]
    )
    given = {"trials": 4, "timeout": None, "bar": open_console(quiet=True).bar, "on_trial": lambda trial: None}
    context = replace(context, space=replace(context.space, enqueued=({"dropout": 0.2},)))
    study, epochs = begin(context), iter(range(50, 2, -1))
    run_worker(
        study,
        context,
        **given,
        limit=TimeLimit(lambda known, config: config.model_copy(update={"epochs": next(epochs) // 25})),
    )
    dropouts = [trial.params["dropout"] for trial in study.trials]
    assert dropouts[1] == 0.2
    assert dropouts.count(0.2) == 1


def test_a_trial_far_below_the_others_is_pruned_and_counts_but_the_default_never(begin, context):
    study = begin()
    for _ in range(5):  # better than any score can be
        study.add_trial(create_trial(value=2.0, intermediate_values={1: 2.0, 2: 2.0}))
    run(study, context, 7)
    assert len(finished_trials(study)) == 7
    (pruned,) = study.get_trials(states=[TrialState.PRUNED])
    assert "default" not in pruned.user_attrs
    assert pruned.user_attrs["history"]
    assert len(pruned.user_attrs["history"]) == len(pruned.intermediate_values)


@pytest.mark.parametrize(
    ("depth", "others", "pruned"),
    [
        (0.0, ("top", 1.0, 0.0), 0),
        (0.0, ("pixels", 0.0, 0.0), 1),
        (1.0, ("pixels", 0.0, 0.0), 0),
        (1.0, ("top", 1.0, 0.0), 0),
        (1.0, ("top", 1.0, 1.0), 1),
    ],
)
def test_a_trial_on_live_views_is_compared_with_those_at_its_cut_alone(
    begin, with_space, prepared, depth, others, pruned
):
    space = f"head_layers = 0\nfrozen_depth = {depth}\nlive_depth = {depth}\n"
    context = with_space(space + "augmentation = { float = [0.1, 1.0], default = 0.1 }\n" + FIXED, prepared.context)
    study, (cut, frozen_depth, live_depth) = begin(context), others
    given = {"cut": cut, "config": {"frozen_depth": frozen_depth, "live_depth": live_depth}}
    for _ in range(5):  # better than any score can be
        study.add_trial(create_trial(value=2.0, intermediate_values={1: 2.0, 2: 2.0}, user_attrs=given))
    run(study, context, 7)
    assert len(study.get_trials(states=[TrialState.PRUNED])) == pruned


def test_one_seed_gives_one_study_also_when_it_was_stopped_in_between(begin, context, monkeypatch):
    def outcome(study):
        return [(trial.value, trial.params, trial.user_attrs["history"][0]["loss"]) for trial in study.trials]

    whole, halves = begin(name="whole"), begin(name="halves")
    monkeypatch.setattr(
        "wastetune.search.sampler._STARTUP_TRIALS", 2
    )  # so that the last two are the sampler's own choice
    run(whole, context, 4)
    for trials in (1, 3, 4):
        run(halves, context, trials)
    assert outcome(whole) == outcome(halves)
    other = replace(context, spec=context.spec.model_copy(update={"seed": 1}))
    study = begin(name="other")
    run(study, other, 2)
    assert study.trials[0].params == whole.trials[0].params
    assert study.trials[0].user_attrs["seed"] != whole.trials[0].user_attrs["seed"]
    assert study.trials[1].params != whole.trials[1].params


@pytest.fixture
def chosen(context):
    """The setting with another sampler or pruner."""
    return lambda **keys: replace(context, spec=context.spec.model_copy(update=keys))


@pytest.mark.parametrize("sampler", ["qmc", "cmaes", {"class": "optuna.samplers.NSGAIISampler", "population_size": 2}])
def test_any_sampler_goes_on_where_it_was_stopped(begin, chosen, sampler):
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    context, kept = chosen(sampler=sampler), open_in_memory_study(epochs=2)
    whole, halves = begin(name="whole"), begin(name="halves")
    for number in range(5):
        for study, memory in ((whole, kept), (halves, open_in_memory_study(epochs=2))):
            _begin(study, study.get_trials(deepcopy=False), memory, context, "")
            study.tell(number, (number * 3) % 5)
    assert [trial.params for trial in whole.trials] == [trial.params for trial in halves.trials]
    assert [trial.system_attrs for trial in whole.trials] == [trial.system_attrs for trial in halves.trials]
    names = {"qmc": set(), "cmaes": {"cma:generation"}}.get(str(sampler), {"NSGAIISampler:generation"})
    assert [set(trial.system_attrs) for trial in whole.trials] == [set(), *[names] * 4]  # none proposed the default


def test_workers_share_a_grid_and_end_with_it(begin, with_space, monkeypatch):
    monkeypatch.setattr("wastetune.tuning.workers.worker.run_trial", lambda *given: pytest.fail("not to be run"))
    space = 'head_layers = 0\noptimizer = { choice = ["adam", "sgd", "adamw"], default = "adam" }\n' + FIXED
    context = with_space(space.replace("dropout = 0.1", "dropout = { float = [0.1, 0.2], default = 0.1 }"))
    context = replace(context, spec=context.spec.model_copy(update={"sampler": {"class": "grid", "points": 2}}))
    study, memory = begin(context), open_in_memory_study(epochs=2)
    for number in range(6):
        _begin(study, study.get_trials(deepcopy=False), memory, context, f"worker {number % 2}")
    assert len({str(sorted(trial.params.items())) for trial in study.trials}) == 6
    assert {trial.params["dropout"] for trial in study.trials} == {0.1, 0.2}
    for trial in study.trials:
        study.tell(trial.number, 0.5)
    with pytest.raises(UserError, match=r"the grid of the space .* not tried in 6 trials; give more points, widen it"):
        run(study, context, 7)


def test_a_pruner_finds_what_it_noted_with_earlier_trials(begin, chosen):
    study, context = begin(), chosen(pruner="successive_halving")
    run(study, context, 1)
    # The default competes, and is never pruned.
    assert study.trials[0].system_attrs["completed_rung_0"] == study.trials[0].intermediate_values[1]
    for _ in range(3):  # better than any score can be
        study.add_trial(create_trial(value=2.0, system_attrs={"completed_rung_0": 2.0}))
    run(study, context, 5)
    assert study.trials[4].state is TrialState.PRUNED
    assert len(study.trials[4].user_attrs["history"]) == 1


def test_the_objective_runs_without_a_study(context):
    config = choose_config(optuna.trial.FixedTrial(default_params(context.space)), context)
    told = []
    result = run_trial(config, 0, context, open_console().bar, told.append)
    assert result.fit.history == tuple(told)
    assert 0 <= result.fit.best.score <= 1
    assert not hasattr(context.data, "test")


LIVE_TAILS = """\
head_layers = 0
frozen_depth = { choice = [0.6, 1.0], default = 1.0 }
live_depth = { float = [0.7, 1.0], default = 0.7 }
augmentation = { float = [0.0, 1.0], default = 0.9 }
"""


def test_what_acts_alike_of_live_views_is_one_configuration(with_space, prepared):
    context = with_space(LIVE_TAILS + FIXED, prepared.context)

    def choose(**params):
        config = choose_config(optuna.trial.FixedTrial(params), context)
        return config.frozen_depth, config.live_depth, config.augmentation

    depth, *live = choose(frozen_depth=0.6, live_depth=0.8, augmentation=0.9)
    assert live == [depth, 0.9]
    assert choose(frozen_depth=0.6, live_depth=0.8, augmentation=0.0) == (depth, 0.0, 0.0)
    assert choose(frozen_depth=1.0, live_depth=0.8, augmentation=0.9) == (1.0, 0.0, 1.0)  # one of two stored views
    assert choose(frozen_depth=1.0, live_depth=1.0, augmentation=0.9) == (1.0, 1.0, 0.9)


def test_a_head_does_not_store_views_that_tails_make_anew(with_space, prepared, tmp_path):
    context = replace(with_space(LIVE_TAILS + FIXED, prepared.context), store=open_store(tmp_path / "cache"))
    config = choose_config(optuna.trial.FixedTrial(default_params(context.space)), context)
    tuning_sets(context, config, open_console(quiet=True).bar)
    (folder,) = (tmp_path / "cache" / "activations").glob("small*")
    stored = {cut.name: len(list(cut.glob("*.npy"))) for cut in folder.iterdir()}
    assert stored == {"block_out": 2, "top": 3}  # plain: of the training and the validation pictures


def test_what_a_worker_tells_that_was_taken_for_dead_is_not_heard(begin, context):
    """Paused past its lease, its trial was failed by another process; it wakes, ends the trial and goes on."""
    study, failed = begin(), []

    def fail_it():
        for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if not failed:
                study.tell(trial.number, state=TrialState.FAIL)
                failed.append(trial.number)

    bar, ignore = open_console().bar, lambda trial: None
    run_worker(study, context, trials=1, timeout=None, bar=bar, on_trial=ignore, check=fail_it)
    assert (states(study), failed) == (["FAIL", "COMPLETE"], [0])
    assert study.trials[0].value is None


def test_workers_of_different_names_propose_different_points(begin, context, monkeypatch):
    monkeypatch.setattr("wastetune.tuning.workers.worker.run_trial", lambda *given: pytest.fail("not to be run"))
    known = [create_trial(value=0.5, user_attrs={"default": True, "config": {}})]
    memory = open_in_memory_study(epochs=2)
    points = [_choose(known, memory, context, (), name).params for name in ("", "a 1", "a 2", "b 1")]
    assert len({str(point) for point in points}) == 4
    assert points[0] == _choose(known, open_in_memory_study(epochs=2), context, (), "").params


def test_a_default_that_is_lost_with_its_workers_is_not_tried_for_ever(begin, context):
    study = begin()
    for _ in range(3):
        run_until_begun(study, context)
        fail_lost_trials(study, study.get_trials(deepcopy=False))
    with pytest.raises(UserError, match="worker of the default configuration was lost 3 times, perhaps for want of"):
        run(study, context, 1)


def run_until_begun(study, context):
    _begin(study, study.get_trials(deepcopy=False), open_in_memory_study(epochs=2), context, "")


def test_a_lost_trial_is_run_again_before_anything_new(begin, context):
    study = begin()
    run(study, context, 1)
    run_until_begun(study, context)
    fail_lost_trials(study, study.get_trials(deepcopy=False))
    lost = study.trials[1]
    run(study, context, 3)
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[2].user_attrs["config"] == lost.user_attrs["config"]
    assert study.trials[2].params == lost.params


def test_a_full_disk_ends_the_worker_and_the_trial_is_handed_back(begin, interrupted_by):
    study, full = begin(), OSError(errno.ENOSPC, "No space left on device", "/cache/x")
    with pytest.raises(UserError, match="No space left on device: /cache/x; make room"):
        run(study, interrupted_by(full), 1)
    assert states(study) == ["FAIL"]  # the configuration is due again, and the budget has lost nothing
    run(study, interrupted_by(full, times=0), 1)
    assert states(study) == ["FAIL", "COMPLETE"]
    assert default_trial(study).number == 1
