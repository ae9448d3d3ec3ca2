"""Search spaces: what a trial gets from them, and that a bad one fails on load with file and key."""

import optuna
import pytest
from optuna.trial import FixedTrial
from pydantic import ValidationError

from wastetune.errors import UserError
from wastetune.search.space import bounds, default_params, enqueued_params, load_space, sample, searched_ranges
from wastetune.training.config import TrialConfig

HEAD = """\
head_layers = { int = [0, 2], default = 1 }
head_units = { int = [64, 1024], log = true, default = 256, when = "head_layers > 0" }
"""
REST = "dropout = 0.3\nlearning_rate = 1e-3\nbatch_size = 32\nepochs = 5\n"
SHIPPED = ["transfer", "head", "deep_tail", "deep_bfloat16", "finetune", "full", "demo"]


@pytest.fixture
def write(tmp_path):
    def write_space(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write_space


@pytest.mark.parametrize("name", SHIPPED)
def test_trial_0_of_a_shipped_space_has_every_default(name):
    space = load_space(name)
    config = sample(space, FixedTrial(default_params(space)))
    for key, param in space.params:
        acts = param.when is None or param.when.holds(config.model_dump())
        assert getattr(config, key) == (param.default if acts else None)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_sample_of_a_shipped_space_is_valid_and_survives_json(name):
    space = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(default_params(space))
    asked = set()
    for _ in range(60):
        trial = study.ask()
        config = sample(space, trial)
        asked.add(frozenset(trial.params))
        assert TrialConfig.model_validate(config.model_dump(mode="json")) == config
        assert (config.head_units is None) == (config.head_layers == 0) == ("head_units" not in trial.params)
        low, high = bounds(space, "frozen_depth")
        assert low <= config.frozen_depth <= high
    assert len(asked) == 2 ** sum(param.when is not None for _, param in space.params)  # each with and without
    assert study.get_trials()[0].params == default_params(space)


def test_fixed_values_are_not_asked_for_and_missing_ones_are_documented_defaults(write):
    space = load_space(write("head_layers = 0\n" + REST))
    assert default_params(space) == {}
    config = sample(space, FixedTrial({}))
    assert config.model_dump() == {
        "head_layers": 0,
        "head_units": None,
        "head_norm": True,
        "dropout": 0.3,
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "label_smoothing": 0.0,
        "batch_size": 32,
        "optimizer": "adamw",
        "frozen_depth": 1.0,
        "augmentation": 0.0,
        "class_weighting": "none",
        "epochs": 5,
        "patience": 6,
    }
    with pytest.raises(ValidationError):
        config.epochs = 6


def test_a_range_is_asked_for_with_its_bounds_and_scale(write):
    space = load_space(write(HEAD + REST.replace("dropout = 0.3", "dropout = { float = [0, 0.5], default = 0 }")))
    study = optuna.create_study()
    trial = study.ask(fixed_distributions=None)
    sample(space, trial)
    study.enqueue_trial({"head_layers": 2})
    trial = study.ask()
    sample(space, trial)
    assert trial.distributions == {
        "head_layers": optuna.distributions.IntDistribution(0, 2),
        "head_units": optuna.distributions.IntDistribution(64, 1024, log=True),
        "dropout": optuna.distributions.FloatDistribution(0.0, 0.5),
    }
    assert searched_ranges(space) == {
        "head_layers": (0, 2, False),
        "head_units": (64, 1024, True),
        "dropout": (0.0, 0.5, False),
    }


@pytest.mark.parametrize(
    ("condition", "layers", "active"),
    [
        ("head_layers > 0", 0, False),
        ("head_layers >= 1", 1, True),
        ("head_layers<1", 0, True),
        ("head_layers <= 1", 2, False),
        ("head_layers == 2.0", 2, True),
        ("head_layers != 2", 2, False),
    ],
)
def test_a_parameter_whose_condition_fails_is_not_asked_for_and_keeps_its_default(write, condition, layers, active):
    text = HEAD + REST.replace(
        "dropout = 0.3", f'dropout = {{ float = [0.0, 0.5], default = 0.25, when = "{condition}" }}'
    )
    space = load_space(write(text))
    trial = FixedTrial({"head_layers": layers, "head_units": 100, "dropout": 0.4})
    assert sample(space, trial).dropout == (0.4 if active else 0.25)
    assert ("dropout" in trial.params) is active


@pytest.mark.parametrize("condition", ["optimizer == 'sgd'", 'optimizer == \\"sgd\\"', "optimizer != 'adam'"])
def test_conditions_compare_texts(write, condition):
    text = HEAD + REST + 'optimizer = { choice = ["adam", "sgd"], default = "adam" }\n'
    space = load_space(write(text + f'weight_decay = {{ float = [0.0, 1.0], default = 0.5, when = "{condition}" }}\n'))
    assert "weight_decay" not in default_params(space)
    trial = FixedTrial({"head_layers": 0, "optimizer": "sgd", "weight_decay": 0.1})
    assert sample(space, trial).weight_decay == 0.1


def test_bounds_of_what_is_searched_fixed_chosen_and_left_out(write):
    space = load_space(
        write(HEAD + REST.replace("batch_size = 32", "batch_size = { choice = [64, 16], default = 64 }"))
    )
    assert bounds(space, "head_units") == (64, 1024)
    assert bounds(space, "dropout") == (0.3, 0.3)
    assert bounds(space, "batch_size") == (16, 64)
    assert bounds(space, "frozen_depth") == (1.0, 1.0)
    with pytest.raises(ValueError, match="optimizer"):
        bounds(space, "optimizer")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("drop_out = 0.3", ["'drop_out'", "did you mean dropout"]),
        ("patience = { int = [9, 2], default = 3 }", ["patience", "upside down", "[2, 9]"]),
        ("patience = { int = [2, 2], default = 2 }", ["patience", "nothing to search"]),
        ("patience = { int = [2, 9] }", ["patience", "no default"]),
        ("patience = { int = [2, 9], default = 10 }", ["patience", "default = 10", "outside"]),
        ("patience = { int = [2, 9.5], default = 3 }", ["patience", "whole numbers"]),
        ("patience = { int = [true, 9], default = 3 }", ["patience", "whole numbers"]),
        ("patience = { int = [2, 3, 4], default = 3 }", ["patience", "[low, high]"]),
        ("patience = { int = [2, 9], default = 3.5 }", ["patience", "default = 3.5"]),
        ("patience = { int = [0, 9], default = 3 }", ["patience = 0", "at least 1"]),
        ("patience = { int = [2, 9], defualt = 3 }", ["patience", "did you mean default"]),
        ("patience = { float = [2, 9], default = 3 }", ["patience = 3.0", "whole number"]),
        ("patience = { default = 3 }", ["patience", "exactly one of"]),
        ("patience = [2, 9]", ["patience", "a value or a table"]),
        ("patience = 0", ["patience = 0", "at least 1"]),
        (
            "weight_decay = { float = [0, 1e-2], log = true, default = 1e-3 }",
            ["weight_decay", "log", "above 0"],
        ),
        ("weight_decay = { float = [0, 1e-2], log = 1, default = 1e-3 }", ["weight_decay", "true or false"]),
        ("weight_decay = { float = [0, inf], default = 1e-3 }", ["weight_decay", "two numbers"]),
        ("frozen_depth = { float = [-0.1, 1.0], default = 1.0 }", ["frozen_depth = -0.1", "at least 0"]),
        ("augmentation = { float = [0.0, 1.5], default = 0 }", ["augmentation = 1.5", "at most 1"]),
        ('optimizer = { choice = ["adam", "lion"], default = "adam" }', ['optimizer = "lion"', '"adamw"']),
        ('optimizer = { choice = ["adam"], default = "sgd" }', ["optimizer", '"sgd" is not one of']),
        ('optimizer = { choice = ["sgd", "sgd"], default = "sgd" }', ["optimizer", "twice"]),
        ('optimizer = { choice = [], default = "sgd" }', ["optimizer", "list of values"]),
        ('optimizer = { choice = ["sgd"], default = "sgd", log = true }', ["optimizer", "'log'"]),
        (
            'patience = { int = [2, 9], default = 3, when = "layers > 0" }',
            ["patience", "'layers'", "head_layers"],
        ),
        ('patience = { int = [2, 9], default = 3, when = "seed > 0" }', ["patience", "no line above"]),
        ('patience = { int = [2, 9], default = 3, when = "patience > 3" }', ["patience", "itself"]),
        ('patience = { int = [2, 9], default = 3, when = "head_layers" }', ["patience", "not a condition"]),
        (
            'patience = { int = [2, 9], default = 3, when = "head_layers > __import__(1)" }',
            ["not a condition"],
        ),
        (
            'patience = { int = [2, 9], default = 3, when = "head_layers > [0]" }',
            ["patience", "not a condition"],
        ),
        ("patience = { int = [2, 9], default = 3, when = 1 }", ["patience", "not a condition"]),
        ("patience = { int = [2, 9], default = 3, when = \"head_layers > '0'\" }", ["cannot be compared"]),
    ],
)
def test_a_bad_space_fails_on_load_with_file_and_key(write, line, words):
    path = write(HEAD + REST + line + "\n")
    with pytest.raises(UserError) as error:
        load_space(path)
    text = str(error.value)
    assert text.startswith(path)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("key", ["head_layers", "dropout", "learning_rate", "batch_size", "epochs"])
def test_a_key_without_a_default_must_be_there(write, key):
    lines = [line for line in (HEAD + REST).splitlines() if not line.startswith(key)]
    text = "\n".join(lines).replace(', when = "head_layers > 0"', "")
    with pytest.raises(UserError, match=f"'{key}' is missing"):
        load_space(write(text))


@pytest.mark.parametrize("when", ['"head_layers > 1"', '"dropout > 0.4"', None])
def test_a_hidden_layer_without_a_width_is_found_on_load(write, when):
    units = f"head_units = {{ int = [8, 16], default = 8, when = {when} }}\n" if when else ""
    text = (
        "head_layers = { int = [0, 2], default = 0 }\n"
        + REST.replace("dropout = 0.3", "dropout = { float = [0.3, 0.5], default = 0.5 }")
        + units
    )
    with pytest.raises(UserError, match="head_units has no value where head_layers is 1"):
        load_space(write(text))


def test_heads_without_hidden_layers_compare_equal_whatever_the_width(write):
    space = load_space(write(HEAD.replace(', when = "head_layers > 0"', "") + REST))
    narrow, wide = (sample(space, FixedTrial({"head_layers": 0, "head_units": units})) for units in (64, 1024))
    assert narrow == wide


def test_an_empty_file_and_an_unknown_name_are_errors(write):
    with pytest.raises(UserError, match="'head_layers' is missing"):
        load_space(write(""))
    with pytest.raises(UserError, match="did you mean transfer"):
        load_space("transfr")


def test_enqueued_configurations_have_the_values_given_and_defaults_elsewhere(write):
    ranges = "dropout = { float = [0.0, 0.5], default = 0.1 }\nlearning_rate = 1e-3\nbatch_size = 32\nepochs = 5\n"
    space = load_space(
        write(HEAD + ranges + "[[enqueue]]\nhead_layers = 0\nbatch_size = 32\n[[enqueue]]\nhead_units = 99\n")
    )
    assert enqueued_params(space) == [
        {"head_layers": 0, "dropout": 0.1},
        {"head_layers": 1, "head_units": 99, "dropout": 0.1},
    ]
    assert enqueued_params(load_space(write(HEAD + ranges))) == []
    whole = default_params(load_space("full")) | {"head_layers": 0, "frozen_depth": 0.0, "learning_rate": 2e-4}
    del whole["head_units"]
    wide = default_params(load_space("full")) | {"head_units": 768, "dropout": 0.2, "weight_decay": 3e-3}
    assert enqueued_params(load_space("full")) == [whole, wide]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("enqueue = 3\n", "enqueue must be tables, each under a line [[enqueue]]"),
        ("[enqueue]\nhead_layers = 0\n", "enqueue must be tables, each under a line [[enqueue]]"),
        ("[[enqueue]]\nhed_layers = 0\n", "configuration 1 of [[enqueue]]: unknown key 'hed_layers'"),
        (
            "[[enqueue]]\n[[enqueue]]\nhead_layers = 3\n",
            "configuration 2 of [[enqueue]]: head_layers = 3, but the space has 0 to 2",
        ),
        ("[[enqueue]]\nhead_layers = 1.0\n", "head_layers = 1.0, but the space has 0 to 2, default 1"),
        ("[[enqueue]]\nbatch_size = 64\n", "batch_size = 64, but the space has 32"),
        ("[[enqueue]]\nhead_layers = 0\nhead_units = 64\n", "head_units has no effect there; leave it out"),
    ],
)
def test_an_enqueued_configuration_that_no_trial_may_have_is_told_with_file_and_place(write, text, told):
    with pytest.raises(UserError) as error:
        load_space(
            write((text if text.startswith("enqueue") else "") + HEAD + REST + (text if text.startswith("[") else ""))
        )
    assert told in str(error.value)
    assert "mine.toml" in str(error.value)
