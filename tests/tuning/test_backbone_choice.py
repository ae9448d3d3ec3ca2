"""A study of several backbones: what its file may say, what is refused, and which backbone a trial gets."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import optuna
import pytest

from wastetune.backbones import catalog
from wastetune.console import open_console
from wastetune.errors import UserError
from wastetune.search.sampler import open_in_memory_study
from wastetune.search.space import default_params, load_space, sample, searched_backbones
from wastetune.storage.database import open_storage
from wastetune.storage.study import ask_lock, default_trial, open_study, read_trials
from wastetune.tuning.objective import choose_config
from wastetune.tuning.prepare import check_choices, prepare_study
from wastetune.tuning.spec import changed_study, load_study
from wastetune.tuning.workers.worker import _begin, run_worker

SMALL, LARGE = "mobilenet_v3_small_minimalistic", "mobilenet_v3_large_minimalistic"
CONSOLE = open_console(quiet=True)


def write_study(folder, like, more="", **keys):
    """The path of a study with these keys instead of those of another study, and lines added to its space."""
    space = folder / "space.toml"
    space.write_text((like.parent / "tiny_space.toml").read_text() + more)
    keys = {"space": f'"{space}"', "backbone": f'"{SMALL}"', "weights": '"none"', "image_size": 32} | keys
    lines = [line for line in like.read_text().splitlines() if line.split(" ")[0] not in keys]
    lines += [f"{key} = {value}" for key, value in keys.items() if value]
    path = folder / "several.toml"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def study(tmp_path, tiny_heads):
    return partial(write_study, tmp_path, tiny_heads)


def quoted(*names):
    return json.dumps(names)


def test_a_list_of_one_is_the_same_study_as_its_name(study):
    assert load_study(study(backbone=quoted(SMALL))) == load_study(study(backbone=f'"{SMALL}"'))
    several = load_study(study(backbone=quoted(SMALL, LARGE)))
    assert several.backbones == (SMALL, LARGE)
    assert changed_study(several.source, trials=7)[0].backbones == (SMALL, LARGE)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (quoted(SMALL, LARGE, SMALL), f'backbone = ["{SMALL}", "{LARGE}", "{SMALL}"] names one twice; keep each once.'),
        ("[]", "backbone = [], but it must be a text in quotes or a list of texts in quotes, not empty."),
        ("[1, 2]", "backbone = [1, 2], but it must be a text in quotes or a list of texts in quotes, not empty."),
    ],
)
def test_a_list_that_cannot_be_is_told_when_it_is_read(study, value, said):
    path = study(backbone=value)
    with pytest.raises(UserError) as told:
        load_study(path)
    assert str(told.value) == f"{path}: {said}"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"backbone": quoted(SMALL, "resnet5")}, "backbone 'resnet5' is not known; did you mean resnet50 or"),
        ({"trials": "1"}, "trials = 1: each of the study's 2 backbones is tried at least once; ask for --trials 2"),
        ({"head": '"my_head.py:build"'}, "a head of your own is built for the features of one backbone"),
        ({"more": "weight_decay = { float = [1e-5, 1e-3], default = 1e-4, when = \"backbone == 'vgg'\" }"},
         f'cannot be compared with backbone, which is one of "{SMALL}", "{LARGE}"'),
        ({"more": "patience = { choice = [3, -1], default = 3, when = \"backbone == '" + LARGE + "'\" }"},
         "patience = -1, but it must be a whole number, at least 1"),
        ({"more": "backbone = 3"}, "unknown key 'backbone'"),
        ({"sampler": '{ class = "grid", points = 2 }', "trials": "99"}, "the grid of"),
    ],
)  # fmt: skip
def test_what_does_not_fit_one_of_them_is_told_before_anything_is_computed(study, keys, said):
    spec = load_study(study(**{"backbone": quoted(SMALL, LARGE)} | keys))
    with pytest.raises(UserError) as told:
        check_choices(spec, trials=spec.trials)
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_missing_weights_of_one_are_told_before_a_picture_is_read(study, tmp_path, monkeypatch):
    monkeypatch.setattr("wastetune.tuning.prepare.index_folder", lambda *given, **options: pytest.fail("it was read"))
    names = quoted(SMALL, LARGE)
    folder, file = tmp_path / "weights", tmp_path / "one.weights.h5"
    folder.mkdir()
    file.touch()
    with pytest.raises(UserError, match=rf"there is no weights file .*{SMALL}_notop\.weights\.h5; give a file, or a"):
        prepare(study(backbone=names, weights=f'"{folder}"'))
    with pytest.raises(UserError, match="one file cannot be the weights of 2 backbones; give their folder"):
        prepare(study(backbone=names, weights=f'"{file}"'))


def prepare(path):
    return prepare_study(load_study(path), data=None, weights=None, console=CONSOLE)


def test_a_condition_on_the_backbone_is_for_studies_of_several(study):
    spec = load_study(study("patience = { int = [2, 9], default = 3, when = \"backbone == 'resnet50'\" }"))
    with pytest.raises(UserError, match="is for a study of several backbones, and this one has one"):
        check_choices(spec, trials=3)


def test_a_key_may_be_searched_for_one_backbone_alone(study):
    spec = load_study(study(f"patience = {{ int = [2, 9], default = 3, when = \"backbone == '{LARGE}'\" }}"))
    space = load_space(spec.space, backbones=(SMALL, LARGE))
    assert searched_backbones(space) == (SMALL, LARGE)
    assert default_params(space)["backbone"] == SMALL
    assert "patience" not in default_params(space)
    assert default_params(space, LARGE)["patience"] == 3
    trial = optuna.trial.FixedTrial(default_params(space, LARGE) | {"patience": 7})
    assert (sample(space, trial).backbone, sample(space, trial).patience) == (LARGE, 7)


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny_heads):
    """Two backbones of different sizes, prepared, with a cache of their own."""
    folder = tmp_path_factory.mktemp("two")
    rows = {name: replace(catalog.BACKBONES[name], size=size) for name, size in ((SMALL, 32), (LARGE, 48))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WASTETUNE_CACHE", str(folder / "cache"))
        patch.setattr(catalog, "BACKBONES", catalog.BACKBONES | rows)
        return prepare(write_study(folder, tiny_heads, backbone=quoted(SMALL, LARGE), image_size=None))


def test_each_backbone_has_its_own_pixels_and_its_default_runs_first(two, tmp_path):
    context = two.context
    sides = {each.backbone.name: each.data.train.read([0]).shape[1] for each in (context, *context.others)}
    assert sides == {SMALL: 32, LARGE: 48}
    assert two.of(LARGE).test.read([0]).shape[1] == 48
    assert two.of(None) is two
    config = choose_config(optuna.trial.FixedTrial(default_params(context.space, LARGE)), context)
    assert context.of(config.backbone).backbone.name == LARGE

    study = open_study(open_storage(f"sqlite:///{tmp_path / 'w.db'}"), "several", two.fingerprint)
    memory = open_in_memory_study(epochs=2)
    for worker in ("a", "b", "a"):  # while those before still run
        _begin(study, study.get_trials(deepcopy=False), memory, context, worker)
    first, second, third = study.trials
    assert [first.params["backbone"], second.params["backbone"]] == [SMALL, LARGE]
    assert [trial.user_attrs.get("default") for trial in study.trials] == [True, True, None]
    assert first.params | {"backbone": LARGE} == second.params
    assert third.params not in (first.params, second.params)
    assert default_trial(study) is None
    study.tell(0, 0.9)
    assert default_trial(study).number == 0
    study.tell(2, 0.95 if third.params["backbone"] == SMALL else 0.1)
    study.tell(1, state=optuna.trial.TrialState.FAIL)
    _begin(study, study.get_trials(deepcopy=False), memory, context, "b")
    assert study.trials[3].params == second.params  # it has its turn again
    study.tell(3, 0.99)
    assert default_trial(study).number == 3  # of the winner's backbone


def test_the_activations_of_a_backbone_are_computed_when_a_trial_needs_them(two, tmp_path):
    study = open_study(open_storage(f"sqlite:///{tmp_path / 'w.db'}"), "several", two.fingerprint)
    seen = []
    for trials in (1, 2):
        run_worker(study, two.context, trials=trials, timeout=None, bar=CONSOLE.bar, on_trial=lambda trial: None)
        seen.append({path.name.rpartition("-")[0] for path in two.context.store.folder.iterdir()})
    assert seen == [{SMALL}, {SMALL, LARGE}]
    assert [trial.user_attrs["config"]["backbone"] for trial in study.trials] == [SMALL, LARGE]


def test_the_fingerprint_names_all_of_them(two):
    told = two.fingerprint
    assert told["backbone"] == f"{SMALL}, {LARGE}"
    assert told["space"].startswith("backbone, head_layers")
    assert told["weights"] == ", ".join(each.backbone.digest[:16] for each in (two.context, *two.context.others))


def test_workers_that_begin_at_once_run_each_default_once(two, url):
    """On SQLite and on PostgreSQL, each worker with connections of its own."""
    open_study(open_storage(url), "several", two.fingerprint)  # as `wastetune run` does before workers start

    def work(name):
        study = open_study(open_storage(url), "several", two.fingerprint)
        with ask_lock(study):
            known = read_trials(study)
            begun = _begin(study, known, open_in_memory_study(epochs=2), two.context, name)
        return begun.default, begun.proposal.config.backbone

    with ThreadPoolExecutor(4) as pool:
        begun = list(pool.map(work, "abcd"))
    assert sorted(backbone for default, backbone in begun if default) == sorted([SMALL, LARGE])
    assert len(begun) == 4
