"""Which configurations of earlier studies a study takes, in which order, and as what its own space has of them."""

import pytest

from wastetune.search.space import nearest_params, sample
from wastetune.storage.records import TrialRecord
from wastetune.storage.study import DataSource
from wastetune.tuning.warm_start import MOST, EarlierStudy, choose_warm_starts, objection, select_nearest

SPACE = """\
head_layers = { int = [0, 2], default = 1 }
head_units = { int = [64, 512], log = true, default = 256, when = "head_layers > 0" }
dropout = { float = [0.1, 0.5], default = 0.3 }
learning_rate = 1e-3
optimizer = { choice = ["adamw", "adam"], default = "adamw" }
weight_decay = { float = [1e-6, 1e-2], log = true, default = 1e-4, when = "optimizer == 'adamw'" }
batch_size = { choice = [32, 64], default = 32 }
epochs = 5
"""
CONFIG = {"head_layers": 1, "head_units": 128, "dropout": 0.2, "learning_rate": 5e-4, "batch_size": 64, "epochs": 9}


@pytest.fixture
def space(write_space):
    return write_space(SPACE)


def earlier(name, *configs, backbone="net", content="c1", digest="d1", drawn=("dropout",), sketch=""):
    """A study with these changes of CONFIG as its complete trials, from 10 on, the best first."""
    trials = [
        TrialRecord(
            number=10 + place,
            state="complete",
            score=0.9 - place / 100,
            seconds=1.0,
            parameters=1,
            default=False,
            config=CONFIG | config,
            drawn=dict.fromkeys(drawn, 0.2),
            epochs=(),
            best_epoch=1,
            failure="",
        )
        for place, config in enumerate(configs)
    ]
    data = DataSource("litter", "/data", digest, ("box", "leaf"), {}, content, sketch)
    return EarlierStudy(name, backbone, data, tuple(trials))


OWN = earlier("own")


def choose(space, *studies):
    return choose_warm_starts(OWN, studies, space, lambda trial: sample(space, trial))


def dropouts(*values):
    return [{"dropout": value} for value in values]


def test_a_configuration_is_moved_into_the_space(space):
    (start,) = choose(space, earlier("a", {"head_units": 4096, "dropout": 0.0, "weight_decay": 0.5}))
    assert start.params == {
        "head_layers": 1,
        "head_units": 512,
        "dropout": 0.1,
        "optimizer": "adamw",
        "weight_decay": 1e-2,
        "batch_size": 64,
    }
    assert (start.config["learning_rate"], start.config["epochs"]) == (1e-3, 5)  # fixed here
    assert str(start) == "a, trial 10"


def test_what_it_has_no_value_for_takes_the_default_and_what_has_no_effect_is_left_out(space):
    layers = sample_space(space, {"head_layers": 2, "head_units": None})
    assert (layers["head_layers"], layers["head_units"]) == (2, 256)
    assert "head_units" not in sample_space(space, {"head_layers": 0})
    assert "weight_decay" not in sample_space(space, {"optimizer": "adam", "weight_decay": 0.5})
    assert sample_space(space, {"head_layers": 6})["head_layers"] == 2


def sample_space(space, values):
    return nearest_params(space, CONFIG | values)


def test_a_configuration_whose_choice_is_not_offered_is_left_out(space):
    starts = choose(space, earlier("a", {"batch_size": 16}, {"optimizer": "sgd"}, {"dropout": 0.4}))
    assert [start.trial for start in starts] == [12]


def test_the_best_of_each_study_comes_first_then_the_second_of_each(space):
    a, b = earlier("a", *dropouts(0.11, 0.12, 0.13, 0.14)), earlier("b", *dropouts(0.21, 0.22))
    found = [str(start) for start in choose(space, a, b)]
    assert found == ["a, trial 10", "b, trial 10", "a, trial 11", "b, trial 11", "a, trial 12"]
    assert len(found) == MOST


def test_no_configuration_comes_twice_and_the_default_not_at_all(space):
    default = {"head_units": 256, "dropout": 0.3, "batch_size": 32}
    a, b = earlier("a", default, *dropouts(0.05, 0.0, 0.2)), earlier("b", *dropouts(0.1, 0.4))
    assert [str(start) for start in choose(space, a, b)] == ["b, trial 10", "b, trial 11", "a, trial 13"]


def test_the_nearest_study_comes_first_and_one_that_cannot_help_not_at_all(space):
    far, other_net = {"backbone": "other", "content": "c2"}, {"backbone": "other"}
    others = [
        earlier("far", {}, **far),
        earlier("same data", {}, **other_net),
        earlier("same net, one trial", {}, content="c2"),
        earlier("same net, two trials", {}, {}, content="c2"),
        earlier("both", {}),
        earlier("no trial"),
        earlier("searched otherwise", {}, drawn=("epochs", "learning_rate")),
        None,
    ]
    found = [each.name for each in select_nearest(OWN, others, space)]
    assert found == ["both", "same net, two trials", "same net, one trial", "same data", "far"]


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "d2"},
        {"digest": "d2", "content": "c2", "sketch": "0a 0b 0d"},  # a picture has gone, another has come
        {"digest": "d2", "content": ""},  # an earlier version knows the name alone
    ],
)
def test_a_study_of_the_same_pictures_under_another_split_helps_only_where_it_is_named(space, changes):
    own = earlier("own", sketch="0a 0b 0c")
    other = earlier("other", {}, **changes)
    assert select_nearest(own, [other], space) == []
    (start,) = choose_warm_starts(own, [other], space, lambda trial: sample(space, trial))
    assert start.resplit
    assert not choose(space, earlier("a", {}))[0].resplit


def test_why_a_study_cannot_help_is_said(space):
    assert objection(None, space) == objection(earlier("a"), space) == "has no complete trial of wastetune"
    assert "none of the parameters" in objection(earlier("a", {}, drawn=("learning_rate",)), space)
    assert "whose choices" in objection(earlier("a", {"batch_size": 8}), space)
    assert objection(earlier("a", {"batch_size": 8}, {}), space) == ""
