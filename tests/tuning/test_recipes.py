"""What decides a score has a recipe number, which changes when scores do: golden scores of tiny trials."""

import json

import pytest
from PIL import Image

from support import recipes
from support.recipes import CHANGED, FOR_NOTHING, RENEW, SAME, Trials, judge, read_golden, sections
from wastetune.backbones import augmentation
from wastetune.data import image, near_duplicates
from wastetune.evaluation import metrics
from wastetune.search.distributions import Fixed
from wastetune.search.space import SearchSpace
from wastetune.storage.study import compare_fingerprints
from wastetune.training import lr_schedule, numpy_mlp
from wastetune.tuning.recipes import RECIPES, recipes_of


@pytest.fixture(scope="module")
def golden():
    return read_golden()


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    return Trials(tmp_path_factory.mktemp("golden"))


def test_every_recipe_has_golden_values_and_no_other(golden):
    assert golden.keys() == RECIPES.keys() == recipes.TOLERANCES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_what_it_gave_when_its_number_was_chosen(name, golden, trials):
    verdict, told = judge(name, golden, sections(trials)[name]())
    assert verdict == SAME, told


def change(module, name, value):
    told = getattr(value, "__name__", value)  # a function's own text has its address, which differs between processes
    return pytest.param(lambda patch: patch.setattr(module, name, value), id=f"{name.strip('_').lower()} {told}")


def resized_otherwise(patch):
    patch.setattr(image, "resize_picture", lambda picture, size: picture.resize((size, size), Image.Resampling.BICUBIC))


CHANGES = {
    "pictures": [
        change(image, "WHITE", image.WHITE | {"I;16": 60000.0}),
        change(image, "UPRIGHT", image.UPRIGHT | {6: Image.Transpose.ROTATE_90}),
        pytest.param(resized_otherwise, id="bicubic"),
    ],
    "split": [
        change(near_duplicates, "MIN_CORRELATION", 0.97),
        change(near_duplicates, "MIN_CONTRAST", 5.0),
    ],
    "views": [
        change(augmentation, "_ROTATION_DEGREES", 24.0),
        change(augmentation, "_ZOOM", 0.32),
        change(augmentation, "_SHIFT", 0.16),
        change(augmentation, "_BRIGHTNESS", 42.0),
        change(augmentation, "_CONTRAST", 0.42),
        change(augmentation, "_SATURATION", 0.52),
        change(augmentation, "_ERASED_SIDE", 0.45),
    ],
    "metrics": [change(metrics, "balanced_accuracy", metrics.accuracy)],
    "head training": [
        change(numpy_mlp, "NORM_MOMENTUM", 0.91),
        change(numpy_mlp, "NORM_EPSILON", 2e-3),
        change(numpy_mlp, "_BETA_1", 0.91),
        change(numpy_mlp, "_BETA_2", 0.995),
        change(numpy_mlp, "_MOMENTUM", 0.91),
        change(numpy_mlp, "_TRUNCATED", 0.9),
        change(lr_schedule, "_WARMUP", 0.1),
        change(lr_schedule, "_START", 0.1),
    ],
    "tail training": [change(lr_schedule, "_START", 0.1)],
}


@pytest.mark.parametrize(
    ("name", "patch"),
    [pytest.param(name, *each.values, id=f"{name}, {each.id}") for name, all_ in CHANGES.items() for each in all_],
)
def test_a_changed_constant_is_noticed_and_the_message_says_what_to_do(name, patch, golden, trials, monkeypatch):
    patch(monkeypatch)
    verdict, told = judge(name, golden, sections(trials)[name]())
    assert verdict == CHANGED
    assert f"its recipe is still {RECIPES[name]}. If that is meant, raise {name!r} in" in told
    assert "run `make golden`" in told
    assert " then, " in told.partition("First difference: ")[2]


def test_a_number_that_is_raised_is_renewed_with_what_rests_on_it_but_not_for_nothing(golden, monkeypatch):
    now = json.loads(json.dumps(golden["tail training"]["gives"]))
    now["losses"][0] += 0.1
    assert judge("tail training", golden, now)[0] == CHANGED
    monkeypatch.setitem(RECIPES, "activations", "99")
    assert judge("tail training", golden, now)[0] == RENEW
    verdict, told = judge("activations", golden, golden["activations"]["gives"])
    assert verdict == FOR_NOTHING
    assert "its recipe is 99 instead of 1, but it gives the same. Lower it again" in told


def test_a_fingerprint_names_the_raised_recipes_that_its_study_can_use(context, monkeypatch):
    for name in RECIPES:
        monkeypatch.setitem(RECIPES, name, 1)
    assert recipes_of(context.space, context.backbone) == {}
    for name in RECIPES:
        monkeypatch.setitem(RECIPES, name, 2)
    assert recipes_of(context.space, context.backbone) == {f"recipe of {name}": "2" for name in RECIPES}
    heads = SearchSpace("heads", "", (("frozen_depth", Fixed(1.0)), ("augmentation", Fixed(0.0))))
    assert {"recipe of views", "recipe of tail training"}.isdisjoint(recipes_of(heads, context.backbone))
    tails = SearchSpace("tails", "", (("frozen_depth", Fixed(0.5)),))
    assert "recipe of head training" not in recipes_of(tails, context.backbone)


def test_a_fingerprint_is_the_same_in_another_version_until_a_recipe_changes():
    old, new = {"wastetune version": "0.1.0", "weights": "w"}, {"weights": "w"}
    assert compare_fingerprints(old, new) == compare_fingerprints(new, old) == {}
    raised = new | {"recipe of views": "2"}
    assert compare_fingerprints(old, raised) == {"recipe of views": ("1", "2")}
    assert compare_fingerprints(raised, new) == {"recipe of views": ("2", "1")}
    assert compare_fingerprints(new, new | {"split": "random"}) == {"split": ("grouped", "random")}
