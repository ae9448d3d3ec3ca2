"""A study with several objectives, run for real: what is measured, what is not trained, what is chosen."""

import re
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from wastetune.backbones.cuts import TOP
from wastetune.backbones.own.onnx_trunk import open_session
from wastetune.console import open_console
from wastetune.errors import UserError
from wastetune.models.bundle import BundleDescription
from wastetune.models.export import FORMATS, Source, join_head
from wastetune.models.latency import check_measurable, mean_costs, model_costs, open_meter
from wastetune.search.space import load_space
from wastetune.storage.database import open_storage
from wastetune.storage.records import find_front
from wastetune.storage.study import (
    LIMITS,
    MEASURED,
    best_trial,
    get_study_attr,
    open_study,
    read_goals,
    read_records,
    set_study_attr,
)
from wastetune.training.assembly import Branch, assemble_model, with_softmax
from wastetune.training.config import TrialConfig
from wastetune.training.head import build_head
from wastetune.training.learner import open_keras_model
from wastetune.tuning.prepare import check_choices, goals_of, join_study, prepare_study
from wastetune.tuning.spec import load_study
from wastetune.tuning.workers.model_costs import render_meters, settle_costs
from wastetune.tuning.workers.progress import describe_status, render_status, render_trial
from wastetune.tuning.workers.worker import run_worker

SPACE = """\
head_layers = 1
head_units = { int = [2, 512], log = true, default = 256 }
dropout = 0.1
learning_rate = { float = [1e-3, 1e-1], log = true, default = 1e-2 }
batch_size = 16
epochs = 1
"""
STUDY = """\
dataset = "{pictures}"
backbone = "mobilenet_v3_small_minimalistic"
space = "{space}"
weights = "none"
image_size = 32
views = 1
"""
SMALL, LARGE = "mobilenet_v3_small_minimalistic", "mobilenet_v3_large_minimalistic"
BODY = 441_000  # parameters of the backbone, beside those of the head


@pytest.fixture(scope="module")
def prepare(tmp_path_factory, pictures):
    """A study of heads with these lines in its file, ready to run."""

    def build(lines, space=SPACE, several=False):
        folder = tmp_path_factory.mktemp("several")
        (folder / "space.toml").write_text(space)
        text = STUDY.format(pictures=pictures, space=folder / "space.toml")
        if several:  # the lines name the backbones
            text = text.replace(f'backbone = "{SMALL}"\n', "")
        (folder / "several.toml").write_text(text + lines)
        spec = load_study(str(folder / "several.toml"))
        check_choices(spec, trials=spec.trials)
        return prepare_study(spec, data=None, weights=None, console=open_console())

    return build


@pytest.fixture(scope="module")
def small(prepare):
    return prepare('objectives = ["macro_f1", "parameters"]\nmax_parameters = 500_000\n')


def run(study, prepared, trials, **told):
    console = open_console()
    given = {"timeout": None, "bar": console.bar, "on_trial": lambda trial: None} | told
    run_worker(study, prepared.context, trials=trials, **given)


def test_what_is_above_a_limit_is_not_trained_and_the_sampler_learns_from_it(url, small):
    study, lines = join_study(small, url, open_console()), []
    assert [each.name for each in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert read_goals(study) == goals_of(small.context.spec)
    run(study, small, 16, on_trial=lambda trial: lines.append(render_trial(trial, best_trial(study), "macro_f1", 200)))
    trials = study.trials
    for trial in trials:
        units = trial.user_attrs["config"]["head_units"]
        assert trial.values is None or trial.values[1] == trial.user_attrs["costs"]["parameters"]
        assert trial.constraints["parameters"] == trial.user_attrs["costs"]["parameters"] / 500_000 - 1
        is_allowed = trial.user_attrs["costs"]["parameters"] <= 500_000
        assert is_allowed == (units <= 99)  # 441,000 + 1,154 + 579 for each unit
        if trial.user_attrs.get("default"):
            assert (trial.state, is_allowed) == (TrialState.COMPLETE, False)  # trained, as all are compared with it
        else:
            assert trial.state is (TrialState.COMPLETE if is_allowed else TrialState.PRUNED)
            assert bool(trial.user_attrs.get("history")) == is_allowed
    below = [trial.constraints["parameters"] <= 0 for trial in trials]
    assert False in below[1:8]
    assert sum(below[8:]) > sum(below[1:8])  # once TPE has its random trials
    best = best_trial(study)
    assert best.constraints["parameters"] <= 0
    assert best.values[0] == max(
        trial.values[0] for trial in trials if trial.values and trial.constraints["parameters"] <= 0
    )
    front = find_front(read_records(study), read_goals(study))
    assert {each.number for each in front} <= {trial.number for trial in study.best_trials}
    assert {(each.score, each.costs["parameters"]) for each in front} == {
        tuple(each.values) for each in study.best_trials
    }
    assert any("not trained, " in line for line in lines)
    status = describe_status(study)
    assert [each["trial"] for each in status["front"]] == [each.number for each in front]
    assert "Pareto front: " in render_status(status)
    assert "(limit 500,000)" in render_status(status)


def test_another_limit_chooses_another_trial_of_the_same_study(small, tmp_path):
    study = join_study(small, f"sqlite:///{tmp_path / 'study.db'}", open_console())
    costs, scores = (600_000.0, 480_000.0, 450_000.0), (0.9, 0.8, 0.8)
    for score, cost in zip(scores, costs, strict=True):
        study.add_trial(optuna.trial.create_trial(values=[score, cost], user_attrs={"costs": {"parameters": cost}}))
    assert best_trial(study).number == 2  # as good as trial 1, and smaller
    set_study_attr(study, LIMITS, {})
    assert best_trial(study).number == 0
    set_study_attr(study, LIMITS, {"parameters": 1000})
    assert best_trial(study) is None
    assert "best: none yet within the limits" in render_status(describe_status(study))


@pytest.mark.parametrize("sampler", ["random", "qmc", {"class": "optuna.samplers.NSGAIISampler", "population_size": 2}])
def test_other_samplers_run_it_too(prepare, small, tmp_path, sampler):
    context = small.context
    spec = context.spec.model_copy(update={"sampler": sampler})
    prepared = replace(small, context=replace(context, spec=spec))
    study = join_study(prepared, f"sqlite:///{tmp_path / 'study.db'}", open_console())
    run(study, prepared, 6)
    assert {trial.state.name for trial in study.trials} == {"COMPLETE", "PRUNED"}


def test_a_sampler_of_one_objective_is_refused_before_anything_is_computed(prepare):
    pytest.importorskip("cmaes")
    with pytest.raises(UserError, match=r"cmaes cannot search several objectives; choose tpe") as error:
        prepare('objectives = ["macro_f1", "parameters"]\nsampler = "cmaes"\n')
    assert "\n" not in str(error.value)


def test_a_missing_package_is_told_with_its_command(monkeypatch):
    monkeypatch.setattr("wastetune.models.latency.find_spec", lambda name: None)
    check_measurable(["parameters"])
    with pytest.raises(UserError, match=r"latency_ms are those of the exported ONNX model, .*wastetune\[onnx\]"):
        check_measurable(["latency_ms"])


def test_a_limit_below_the_backbone_itself_is_refused(prepare, tmp_path):
    prepared = prepare('objectives = ["macro_f1", "parameters"]\nmax_parameters = 1000\n')
    study = join_study(prepared, f"sqlite:///{tmp_path / 'study.db'}", open_console())
    with pytest.raises(UserError, match=r"max_parameters = 1000, but mobilenet\w+ alone has 441,000"):
        run(study, prepared, 1)
    assert not study.trials


def test_the_other_objective_needs_another_study(small, url):
    join_study(small, url, open_console())
    other = replace(small, fingerprint=small.fingerprint | {"objectives": "macro_f1, latency_ms"})
    with pytest.raises(UserError, match="was begun with another objectives"):
        join_study(other, url, open_console())


@pytest.fixture(scope="module")
def timed(prepare):
    pytest.importorskip("tf2onnx")
    return prepare('objectives = ["macro_f1", "latency_ms", "megabytes"]\n')


def test_latency_is_measured_once_for_each_architecture_and_on_one_kind_of_machine(timed, tmp_path, monkeypatch):
    study = join_study(timed, f"sqlite:///{tmp_path / 'study.db'}", open_console())
    fixed = SPACE.replace("{ int = [2, 512], log = true, default = 256 }", "16")
    (tmp_path / "fixed.toml").write_text(fixed)
    context = replace(timed.context, space=load_space(str(tmp_path / "fixed.toml")))
    calls = []
    monkeypatch.setattr(
        "wastetune.tuning.workers.model_costs.model_costs", lambda *given: calls.append(given) or model_costs(*given)
    )
    run(study, replace(timed, context=context), 3)
    assert len(calls) == 1
    first, *others = [trial.user_attrs["costs"] for trial in study.trials]
    assert 0.01 < first["latency_ms"] < 1000
    assert others == [first, first]
    stored = get_study_attr(study, MEASURED)
    (measured,) = stored["backbones"].values()
    assert 0 < measured["least"]["latency_ms"] < 2 * measured["reference_ms"] + 0.1
    set_study_attr(study, MEASURED, stored | {"machine": "another processor"})
    with pytest.raises(UserError, match=r"measures latency on another machine \(there: another processor; here: "):
        settle_costs(study, context)


def config(units, **keys):
    given = {"head_layers": 1, "head_units": units, "dropout": 0.1, "learning_rate": 0.01, "batch_size": 16}
    return TrialConfig(**given, epochs=1, **keys)


def test_what_is_measured_is_the_exported_model(timed, tmp_path):
    """The model that is joined of two parts answers as Keras's does, and is as large as the file of an export."""
    context = timed.context
    meter = open_meter(
        ("latency_ms", "megabytes", "parameters"), context.backbone, 2, build_head, config(256), tmp_path
    )
    with open_keras_model(context.backbone, TOP, config(32), 2, 0) as model:
        whole = assemble_model(context.backbone, [Branch(TOP, model)])
        joined = join_head(meter.trunk, with_softmax(model))
        FORMATS["onnx"].write(Source(whole, BundleDescription(classes=("a", "b"), input_size=32)), tmp_path / "m.onnx")
        pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
        session = open_session(joined.SerializeToString(), 1)
        assert [each.name for each in session.get_outputs()] == ["above_probabilities"]
        expected = np.asarray(whole.predict_on_batch(pixels.astype(np.float32)))
        np.testing.assert_allclose(session.run(None, {"pixels": pixels})[0], expected, atol=1e-5)
    size = (tmp_path / "m.onnx").stat().st_size / 1e6
    assert len(joined.SerializeToString()) / 1e6 == pytest.approx(size, rel=0.02)
    assert (meter.reference_ms, whole.count_params()) == (0.0, BODY + 576 * 2 + 577 * 32 + 33 * 2)
    one = model_costs(replace(meter, reference_ms=1.0), config(32))
    assert (one["parameters"], one["megabytes"]) == (whole.count_params(), pytest.approx(size, rel=0.02))
    mean = mean_costs(replace(meter, reference_ms=1.0), [config(32), config(32)])
    assert mean["parameters"] - one["parameters"] == 576 * 2 + 577 * 32 + 33 * 2
    assert mean["megabytes"] - one["megabytes"] == pytest.approx(4 * (577 * 32 + 33 * 2) / 1e6, abs=0.02)


SEVERAL = """\
backbone = ["mobilenet_v3_small_minimalistic", "mobilenet_v3_large_minimalistic"]
objectives = ["macro_f1", "parameters", "latency_ms"]
"""


def test_each_of_several_backbones_has_its_own_costs(prepare, tmp_path):
    prepared = prepare(SEVERAL + "max_parameters = 2_000_000\n", several=True)
    study = join_study(prepared, f"sqlite:///{tmp_path / 'study.db'}", open_console())
    run(study, prepared, 3)
    small, large = (trial.user_attrs["costs"] for trial in study.trials[:2])
    assert [trial.user_attrs["config"]["backbone"] for trial in study.trials[:2]] == [SMALL, LARGE]
    assert small["parameters"] == BODY + 576 * 2 + 577 * 256 + 257 * 2
    assert large["parameters"] > 2 * small["parameters"]
    assert set(get_study_attr(study, MEASURED)["backbones"]) == {SMALL, LARGE}
    status = describe_status(study, 3)
    assert [each["name"] for each in status["backbones"]] == [SMALL, LARGE]
    (told,) = render_meters(settle_costs(study, prepared.context))
    assert re.search(rf"the defaults' models: [\d.]+ ms \({SMALL}\), [\d.]+ ms \({LARGE}\)$", told)
    set_study_attr(study, LIMITS, {"parameters": 500_000})
    with pytest.raises(UserError, match=rf"{LARGE} alone has 1,[0-9,]*; raise the limit, or choose a smaller backbone"):
        settle_costs(study, prepared.context)


def test_a_study_with_one_objective_measures_nothing(context, tmp_path):
    study = open_study(open_storage(f"sqlite:///{tmp_path / 'study.db'}"), "mine", {"data": "d1"})
    assert settle_costs(study, context) == {}
    assert get_study_attr(study, MEASURED) is None
