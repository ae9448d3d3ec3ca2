"""KerasTuner's hyperparameters as Optuna's distributions: bounds, steps, logarithm, defaults, scopes."""

import warnings

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from wastetune.errors import UserError
from wastetune.search.hyperparameters import check_hyperparameters, distribution_of, suggest
from wastetune.search.space import default_params, load_space, nearest_params, sample, searched_ranges, with_head
from wastetune.training.custom_head import CustomHead, HeadFile

keras_tuner = pytest.importorskip("keras_tuner")


def asked(kind, *arguments, **options):
    hp = keras_tuner.HyperParameters()
    getattr(hp, kind)("x", *arguments, **options)
    return hp.space[0]


@pytest.mark.parametrize(
    ("hyperparameter", "distribution"),
    [
        (asked("Int", 2, 9), IntDistribution(2, 9)),
        (asked("Int", 2, 10, step=3), IntDistribution(2, 8, step=3)),
        (asked("Int", 2, 300, sampling="log"), IntDistribution(2, 300, log=True)),
        (asked("Int", 2, 33, step=2, sampling="log"), CategoricalDistribution([2, 4, 8, 16, 32])),
        (asked("Int", 2, 9, sampling="reverse_log"), IntDistribution(2, 9)),
        (asked("Float", 0, 1), FloatDistribution(0.0, 1.0)),
        (asked("Float", 0, 1, step=0.2), FloatDistribution(0.0, 1.0, step=0.2)),  # KerasTuner itself ends at 0.8
        (asked("Float", 0.1, 0.75, step=0.3), FloatDistribution(0.1, 0.7, step=0.3)),
        (asked("Float", 1e-4, 1e-1, sampling="log"), FloatDistribution(1e-4, 1e-1, log=True)),
        (asked("Choice", ["a", "b"]), CategoricalDistribution(["a", "b"])),
        (asked("Boolean"), CategoricalDistribution([True, False])),
    ],
    ids=repr,
)
def test_a_hyperparameter_becomes_its_distribution_without_a_warning(hyperparameter, distribution):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert distribution_of(hyperparameter) == distribution
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(8):
            trial = study.ask()
            value = suggest(trial, "head.x", hyperparameter)
            assert trial.params == {"head.x": value}
            assert distribution._contains(distribution.to_internal_repr(value))


@pytest.mark.parametrize(
    "hyperparameter",
    [
        asked("Int", 2, 9, default=1),
        asked("Int", 2, 9, step=3, default=4),
        asked("Int", 2, 9, step=2, sampling="log", default=5),
        asked("Float", 0, 1, default=2),
    ],
    ids=repr,
)
def test_a_default_that_no_trial_could_have_is_told(hyperparameter):
    with pytest.raises(UserError, match=r"my_head.py: the default of 'x', \d, is none of its values"):
        check_hyperparameters("my_head.py", [hyperparameter])


def test_one_name_for_two_kinds_of_values_is_told():
    with pytest.raises(UserError, match="'x' stands for two kinds of values"):
        check_hyperparameters("my_head.py", [asked("Choice", ["a", "b"]), asked("Choice", ["c"])])
    check_hyperparameters("my_head.py", [asked("Int", 1, 2), asked("Int", 1, 3), asked("Fixed", "three")])


def build(hp, features, classes):
    if hp.Boolean("deep"):
        with hp.conditional_scope("deep", [True]):
            hp.Int("units", 4, 64, sampling="log", default=16)
    hp.Float("rate", 0.0, 0.5)


@pytest.fixture
def space(tmp_path):
    hp = keras_tuner.HyperParameters()
    hp.values["deep"] = True
    build(hp, None, 2)
    head = CustomHead(HeadFile("my_head.py:build", "0" * 64, build, tmp_path), 3, 2, tuple(hp.space))
    return with_head(load_space("head", own_head=True), head)


def test_a_space_has_the_heads_parameters_in_place_of_its_own(space):
    params = default_params(space)
    assert {key for key in params if key.startswith("head")} == {"head.deep", "head.rate"}
    assert "dropout" not in params
    config = sample(space, FixedTrial(params))
    assert (config.head, config.head_params) == ("my_head.py:build", {"deep": False, "rate": 0.0})
    assert sample(space, FixedTrial(params | {"head.deep": True, "head.units": 5})).head_params["units"] == 5
    ranges = searched_ranges(space)
    assert (ranges["head.units"], ranges["head.rate"]) == ((4, 64, True), (0.0, 0.5, False))
    assert not {"head.deep", "head_layers"} & ranges.keys()


def test_another_configuration_brings_its_values_where_the_head_can_have_them(space):
    config = sample(space, FixedTrial(default_params(space) | {"head.deep": True, "head.units": 5})).model_dump()
    near = nearest_params(space, config | {"head.rate": 0.9})
    assert (near["head.deep"], near["head.units"], near["head.rate"]) == (True, 5, 0.0)


def test_the_sampler_learns_which_parameters_exist_when(space):
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=4))
    seen = set()
    for _ in range(12):
        trial = study.ask()
        config = sample(space, trial)
        assert ("head.units" in trial.params) == config.head_params["deep"]
        seen.add(config.head_params["deep"])
        study.tell(trial, 0.5)
    assert seen == {True, False}


def test_a_space_may_leave_out_what_wastetunes_head_needs(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text("learning_rate = 1e-3\nbatch_size = 8\nepochs = 2\n")
    assert [key for key, _ in load_space(str(path), own_head=True).params] == ["learning_rate", "batch_size", "epochs"]
    with pytest.raises(UserError, match="the key 'head_layers' is missing"):
        load_space(str(path))
    for key in ("head", "head_params"):
        path.write_text(f'{key} = "my_head.py:build"\n')
        with pytest.raises(UserError, match=f"unknown key '{key}'"):
            load_space(str(path))
