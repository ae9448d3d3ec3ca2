"""The sampler and pruner of a study's file: what is a name or a class, and that a mistake is one sentence."""

import optuna
import pytest

from wastetune.errors import UserError
from wastetune.search.choice import NAMES, describe_search, read_choice, render_choice
from wastetune.search.pruner import build_pruner
from wastetune.search.sampler import build_sampler, check_search
from wastetune.search.space import load_space

NSGA = {"class": "optuna.samplers.NSGAIISampler", "population_size": 20}
FIXED = {"class": "optuna.samplers.PartialFixedSampler", "fixed_params": {"batch_size": 8}}
FEW = """\
head_layers = 0
dropout = 0.1
learning_rate = { float = [1e-3, 1e-1], log = true, default = 1e-2 }
batch_size = { choice = [8, 16], default = 8 }
epochs = 8
"""


@pytest.fixture
def space(tmp_path):
    def load(text=FEW):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return load_space(str(path))

    return load


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, names in NAMES.items() for name in names])
def test_a_table_without_arguments_is_its_name(key, name):
    assert read_choice(key, name) == read_choice(key, {"class": name}) == name
    assert render_choice(name) == name


def test_a_class_is_told_with_its_arguments_in_whatever_order():
    assert read_choice("sampler", NSGA) == NSGA
    told = "optuna.samplers.NSGAIISampler(mutation_prob=0.1, population_size=20)"
    assert render_choice(NSGA | {"mutation_prob": 0.1}) == told
    assert render_choice({"mutation_prob": 0.1} | NSGA) == told
    assert describe_search({"pruner": "none", "backbone": "x", "sampler": told}) == f"sampler {told}, pruner none"
    assert describe_search({"backbone": "x"}) == ""


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sampler", "tpee", ['sampler = "tpee"', '"tpe", "gp", "cmaes", "random", "qmc", "grid"', "did you mean tpe?"]),
        ("sampler", 3, ["sampler = 3", "one of"]),
        ("sampler", {"population_size": 3}, ["a table with a class of Optuna's"]),
        ("sampler", {"class": "subprocess.Popen", "args": ["true"]}, ["it must be one of"]),
        ("sampler", {"class": "optuna.samplers.GridSampler", "search_space": {}}, ['write sampler = "grid"']),
        ("sampler", {"class": "optuna.samplers.QMCSampler"}, ['write sampler = "qmc"']),
        ("sampler", {"class": "grid", "points": 1}, ["points must be a whole number, at least 2"]),
        ("sampler", {"class": "grid", "points": True}, ["points must be a whole number, at least 2"]),
        ("sampler", {"class": "grid", "step": 1}, ["only the argument points"]),
        ("sampler", {"class": "qmc", "points": 4}, ["no arguments"]),
        ("pruner", "tpe", ['"median"', '"none"']),
        ("pruner", "wilcoxon", ["compares the scores of folds", "choose one of"]),
        ("pruner", {"class": "optuna.pruners.WilcoxonPruner"}, ["compares the scores of folds"]),
    ],
)
def test_what_is_neither_a_name_nor_a_class_of_optunas_is_refused(key, value, words):
    with pytest.raises(ValueError, match=f"^{key} = ") as error:
        read_choice(key, value)
    for word in words:
        assert word in str(error.value)


def test_names_may_have_arguments_and_arguments_may_be_objects():
    assert build_sampler({"class": "tpe", "n_startup_trials": 3}, seed=1)._n_startup_trials == 3
    crossed = {"class": "optuna.samplers.nsgaii.SBXCrossover", "eta": 3.0}
    assert isinstance(build_sampler(NSGA | {"crossover": crossed}, seed=1), optuna.samplers.NSGAIISampler)
    patient = {"class": "optuna.pruners.PatientPruner", "patience": 2}
    inner = {"class": "optuna.pruners.MedianPruner", "n_startup_trials": 9}
    assert build_pruner(patient | {"wrapped_pruner": inner}, epochs=8)._wrapped_pruner._n_startup_trials == 9
    assert build_pruner({"class": "percentile", "percentile": 60.0}, epochs=9)._n_warmup_steps == 3


@pytest.mark.parametrize(
    ("sampler", "pruner", "words"),
    [
        (NSGA | {"population_size": 1}, "median", "population_size=1. does not work here .ValueError: "),
        (NSGA | {"size": 1}, "median", "does not work here .TypeError: "),
        ({"class": "optuna.samplers.NSGASampler"}, "median", "Optuna has no class optuna.samplers.NSGASampler"),
        ({"class": "optuna.nowhere.X"}, "median", "cannot be imported"),
        ({"class": "optuna.samplers._base.Any"}, "median", "Optuna has no class"),
        ({"class": "random", "seed": 3}, "median", "leave out seed"),
        (FIXED | {"base_sampler": {"class": "optuna.samplers.RandomSampler", "seed": 3}}, "median", "leave out seed"),
        ({"class": "optuna.pruners.NopPruner"}, "median", "that class is no sampler"),
        ({"class": "optuna.samplers.BruteForceSampler"}, "median", "search space will be infinite"),
        ("tpe", {"class": "optuna.samplers.RandomSampler"}, "that class is no pruner"),
        ("tpe", {"class": "hyperband", "reduction_factor": 1}, "does not work here"),
        ({"class": "grid", "points": 3}, "median", "the default are 6 configurations, .*ask for --trials 6"),
    ],
)
def test_what_cannot_search_is_told_before_anything_is_computed(space, sampler, pruner, words):
    with pytest.raises(UserError, match=words) as error:
        check_search(sampler, pruner, space(), trials=50)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "package"), [("gp", "torch"), ("cmaes", "cmaes")])
def test_a_missing_package_is_told_with_its_command(space, monkeypatch, name, package):
    monkeypatch.setattr("wastetune.search.choice.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf'"{name}" needs the package {package}, .*; pip install .wastetune\[{name}\]'):
        check_search(name, "median", space(), trials=50)


def test_it_is_told_what_a_sampler_does_not_learn(space, monkeypatch):
    head = load_space("head")
    assert check_search("tpe", "median", head, trials=50) == []
    assert check_search("tpe", "none", head, trials=50) == ["pruner none"]
    assert check_search("qmc", "median", head, trials=50) == ["sampler qmc"]
    learned = check_search(NSGA, "median", head, trials=50)[1]
    assert learned == "  drawn at random, because this sampler cannot learn them: head_units, weight_decay"
    assert check_search("grid", "median", head, trials=50)[1] == (
        "  the grid has 18,144 configurations, of which 50 trials try a part in random order"
    )
    for trials in (6, None):
        assert check_search("grid", "median", space(), trials=trials)[1] == "  the grid has 6 configurations"


def test_cma_es_without_numbers_is_refused(space):
    pytest.importorskip("cmaes")
    assert "batch_size" in check_search("cmaes", "median", space(), trials=50)[1]
    choices = space(FEW.replace("{ float = [1e-3, 1e-1], log = true, default = 1e-2 }", "1e-2"))
    with pytest.raises(UserError, match=r"would draw every key of .*mine\.toml at random: it learns numbers"):
        check_search("cmaes", "median", choices, trials=50)
