"""Study files: what is shipped loads, and each mistake is told in one sentence with file and key."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from wastetune.errors import UserError
from wastetune.search.space import load_space
from wastetune.search.toml_file import shipped
from wastetune.tuning.spec import load_study, study_names

MINIMAL = 'dataset = "trashnet"\nbackbone = "resnet50"\n'


@pytest.fixture
def study(tmp_path):
    def write(text, name="mine.toml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def complaint(path):
    with pytest.raises(UserError) as error:
        load_study(path)
    text = str(error.value)
    assert "\n" not in text
    assert "pydantic" not in text
    return text


@pytest.mark.parametrize("name", study_names())
def test_every_shipped_study_loads_with_its_space_and_states_question_and_command(name):
    spec = load_study(name)
    assert spec.name == name
    assert spec.question.endswith(("?", "."))
    assert "wastetune" not in spec.question
    assert f"# wastetune run --study {name}" in Path(spec.source).read_text()
    assert load_space(spec.space, backbones=spec.backbones).params


def test_the_nine_pairs_of_the_study_we_come_from_are_shipped():
    backbones = {"inception": "inception_v3", "resnet": "resnet152", "mobilenet": "mobilenet_v3_large"}
    for short, backbone in backbones.items():
        for dataset in ("wid", "wcd", "trashnet"):
            spec = load_study(f"{short}_{dataset}")
            assert (spec.backbone, spec.dataset, spec.trials) == (backbone, dataset, 50)


def test_a_minimal_file_gets_the_documented_defaults(study):
    spec = load_study(study(MINIMAL, "try_1.toml"))
    assert (spec.name, spec.space, spec.metric, spec.trials) == ("try_1", "transfer", "macro_f1", 50)
    assert (spec.seed, spec.weights, spec.image_size, spec.views) == (0, "imagenet", None, 4)
    assert (spec.val_fraction, spec.test_fraction, spec.question) == (0.15, 0.2, "")


def test_a_warm_start_is_a_list_of_names_or_auto(study):
    assert load_study(study(MINIMAL)).warm_start is None
    assert load_study(study(MINIMAL + 'warm_start = ["a", "b"]')).warm_start == ("a", "b")
    assert load_study(study(MINIMAL + 'warm_start = "auto"')).warm_start == "auto"


def test_a_study_cannot_be_changed_after_loading(study):
    with pytest.raises(ValidationError):
        load_study(study(MINIMAL)).trials = 3


def test_the_question_ends_at_the_command(study):
    text = "# Which head is best,\n# and why?\n# wastetune run --study mine\n# Answer: 0.9.\n" + MINIMAL
    assert load_study(study(text)).question == "Which head is best, and why?"


def test_a_study_in_the_working_directory_comes_before_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "demo.toml").write_text(MINIMAL + "trials = 3\n")
    (folder / "mine.toml").write_text(MINIMAL)
    assert load_study("demo").trials == 3
    assert "mine" in study_names()
    assert "resnet_wid" in study_names()
    assert study_names() == tuple(sorted(set(study_names())))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trails = 9", ["'trails'", "did you mean trials"]),
        ('name = "x"', ["'name'"]),
        ('source = "x"', ["'source'"]),
        ("trials = 0", ["trials = 0", "a whole number, at least 1"]),
        ('trials = "50"', ['trials = "50"', "a whole number"]),
        ("trials = true", ["trials = true", "a whole number"]),
        ("trials = 2.5", ["trials = 2.5", "a whole number"]),
        ("val_fraction = 0.5", ["val_fraction = 0.5", "above 0 and below 0.5"]),
        ("test_fraction = nan", ["test_fraction", "above 0 and below 0.5"]),
        ("image_size = 16", ["image_size = 16", "at least 32 and at most 1024"]),
        ("views = 17", ["views = 17", "at most 16"]),
        ('metric = "f1"', ['metric = "f1"', '"macro_f1", "accuracy", "balanced_accuracy"']),
        ("weights = 1", ["weights = 1", "a text in quotes"]),
        ('space = ""', ["space", "not empty"]),
        ('warm_start = "wid"', ['warm_start = "wid"', '"auto" or a list of texts in quotes.']),
        ('sampler = "bayes"', ['sampler = "bayes"', '"tpe", "gp"']),
        ("pruner = false", ["pruner = false", '"median", "percentile"']),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_is_allowed(study, line, words):
    path = study(MINIMAL + line + "\n")
    text = complaint(path)
    assert text.startswith(path)
    for word in words:
        assert word in text


def test_sampler_and_pruner_are_names_or_tables(study):
    spec = load_study(study(MINIMAL))
    assert (spec.sampler, spec.pruner) == ("tpe", "median")
    spec = load_study(study(MINIMAL + 'sampler = { class = "grid", points = 4 }\npruner = { class = "none" }\n'))
    assert (spec.sampler, spec.pruner) == ({"class": "grid", "points": 4}, "none")


def test_a_missing_key_is_named(study):
    path = study('dataset = "wid"\n')
    allowed = "a text in quotes or a list of texts in quotes, not empty"
    assert complaint(path) == f"{path}: the key 'backbone' is missing; it must be {allowed}."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dataset = \n", ["line 1", "invalid value"]),
        (MINIMAL + 'dataset = "wid"\n', ["line 3", "overwrite"]),
        (MINIMAL.encode("utf-16"), ["UTF-8"]),
    ],
)
def test_a_file_that_is_not_toml_is_named_with_its_line(study, text, words):
    path = study(text)
    told = complaint(path)
    assert told.startswith(f"{path} is not valid TOML")
    for word in words:
        assert word in told


def test_a_byte_order_mark_is_no_mistake(study):
    assert load_study(study(b"\xef\xbb\xbf" + MINIMAL.encode())).dataset == "trashnet"


def test_an_unknown_name_suggests_the_near_one():
    assert "did you mean mobilenet_trashnet" in complaint("mobilenet_trashnte")
    assert "known: demo, inception_trashnet" in complaint("zzz")


@pytest.mark.parametrize("name", ["nowhere/x.toml", "../pyproject", "studies/demo", ""])
def test_what_is_no_file_and_no_name_is_an_error(name):
    assert "There is no study" in complaint(name)


def test_shipped_folders_are_those_the_wheel_includes():
    for kind in ("studies", "search_spaces"):
        assert (shipped(kind) / "demo.toml").is_file()
