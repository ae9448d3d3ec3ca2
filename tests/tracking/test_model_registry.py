"""The registered model: one version per model, and the champion is the better one on the same test pictures."""

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from support.reports import a_report, scores
from wastetune.data.image import read_picture, resize_picture
from wastetune.datasets.identity import content_digest, content_sketch
from wastetune.storage.study import DataSource
from wastetune.tracking.mlflow_runs import mirror_final
from wastetune.tracking.mlflow_store import open_mirror
from wastetune.tracking.model_registry import model_name, register_model
from wastetune.tracking.model_registry import test_digest as digest_of

DATA = DataSource("litter", "/data/litter", "d" * 64, ("box", "leaf"), {"train": 28, "val": 7, "test": 7})
SCORES = scores(0.75, ["box", "leaf"]) | {"accuracy": 0.75}
VERSIONS = {"keras": "3.15.1", "tensorflow": "2.21.0"}


def scored(f1, **changes):
    values = {
        "study": "mine",
        "question": "Which is which?",
        "backbone": "tiny_net",
        "dataset": "litter",
        "classes": ["box", "leaf"],
        "test": SCORES | {"f1_macro": f1},
        "versions": VERSIONS,
    }
    return a_report(**values | changes)


REPORT = scored(0.5)
NAME = "wastetune-litter"


@pytest.fixture
def mirror(mlflow_store):
    return open_mirror(mlflow_store, study="mine", study_id="abc", data=DATA, tags={"backbone": "tiny_net"})


@pytest.fixture
def results(tmp_path):
    """Writes a results folder with a model of its own, as `wastetune run` leaves it."""

    def write(bias, test=("p1", "p2")):
        import keras

        folder = tmp_path / "results"
        (folder / "bundle").mkdir(parents=True, exist_ok=True)
        pixels = keras.Input((4, 4, 3))
        flat = keras.layers.GlobalAveragePooling2D()(pixels)
        keras.utils.set_random_seed(1)
        made = keras.layers.Dense(2, "softmax", bias_initializer=keras.initializers.Constant([bias, 0.0]))(flat)
        keras.Model(pixels, made).save(folder / "bundle" / "model.keras")
        rows = [f"box/{name}.jpg,box,b,{name},test" for name in test] + ["leaf/q.jpg,leaf,b,q,train"]
        about = {"classes": ["box", "leaf"], "input_size": 4}
        (folder / "bundle" / "bundle.json").write_text(json.dumps(about))
        (folder / "split.csv").write_text("\n".join(["path,class,bytes_sha256,pixels_sha256,split", *rows]) + "\n")
        return folder

    return write


def versions_of(mirror):
    found = mirror.client.search_model_versions(f"name = '{NAME}'")
    return sorted((int(version.version), float(version.tags["score"])) for version in found)


def champion_of(mirror):
    return str(mirror.client.get_model_version_by_alias(NAME, "champion").version)


def test_the_first_model_is_the_champion_and_the_final_run_shows_it(mirror, results):
    folder = results(0.0)
    mirror_final(mirror, REPORT, folder)
    assert register_model(mirror, REPORT, folder) == (
        "wastetune-litter version 1 is registered in MLflow; it is the champion, as the first"
    )
    version = mirror.client.get_model_version_by_alias(NAME, "champion")
    assert version.run_id == mirror.parent
    assert {key: version.tags[key] for key in ("study", "backbone", "metric", "score")} == {
        "study": "mine",
        "backbone": "tiny_net",
        "metric": "macro_f1",
        "score": "0.5",
    }
    (final,) = (run for run in mirror.client.search_runs([mirror.experiment]) if run.info.run_name == "mine final")
    assert [output.model_id for output in final.outputs.model_outputs] == [version.tags["wastetune.logged_model"]]


def test_a_model_is_registered_once_also_when_the_report_around_it_changes(mirror, results):
    folder = results(0.0)
    mirror_final(mirror, REPORT, folder)
    register_model(mirror, REPORT, folder)
    assert register_model(mirror, REPORT, folder) is None
    more = scored(0.5, question="Which is which, then?")
    mirror_final(mirror, more, folder)
    assert register_model(mirror, more, folder) is None
    assert versions_of(mirror) == [(1, 0.5)]
    (final,) = (run for run in mirror.client.search_runs([mirror.experiment]) if run.info.run_name == "mine final")
    assert len(final.outputs.model_outputs) == 1


def test_a_model_that_is_worse_than_its_default_is_no_champion_even_as_the_first(mirror, results):
    from mlflow.exceptions import MlflowException

    worse = scored(0.5, gain={"f1_macro": [-0.2, -0.1], "accuracy": [-0.2, -0.1]})
    said = register_model(mirror, worse, results(0.0))
    assert said.endswith("not the champion: it is worse than its study's default configuration, beyond chance")
    with pytest.raises(MlflowException, match="champion"):
        champion_of(mirror)
    assert "it is the champion, as the first" in register_model(mirror, scored(0.4), results(0.1))


def test_a_model_whose_split_leaks_is_no_champion(mirror, results):
    said = register_model(mirror, scored(0.9, leaked=12), results(0.0))
    assert said.endswith("not the champion: its split leaks, so its scores are too high")
    assert "it is the champion, as the first" in register_model(mirror, scored(0.4), results(0.1))


def test_the_champion_is_the_better_one_on_validation_pictures_whatever_the_test_set_says(mirror, results):
    def validated(score, f1, **changes):
        final = {"kind": "best", "members": [17], "considered": [17, 0], "temperature": 1.0}
        return scored(f1, final=final | {"score": score, "default_score": 0.1}, **changes)

    register_model(mirror, validated(0.9, 0.5), results(0.0))
    said = register_model(mirror, validated(0.8, 0.7), results(0.1))
    assert said.endswith(
        "version 1 stays champion: macro_f1 on validation pictures 0.8000, of version 1 0.9000; "
        "on the test pictures 0.7000 and 0.5000"
    )
    looks = [{"study": "mine", "trials": [number]} for number in range(3)]
    said = register_model(mirror, validated(0.95, 0.4, openings=looks), results(0.2))
    assert "it is the champion now: macro_f1 on validation pictures 0.9500, of version 1 0.9000" in said
    assert said.endswith("on the test pictures 0.4000 and 0.5000, evaluated 3 times")
    assert champion_of(mirror) == "3"


def test_without_a_validation_score_only_a_higher_score_on_the_same_test_pictures_makes_a_champion(mirror, results):
    said = [register_model(mirror, scored(0.5), results(0.0))]
    said.append(register_model(mirror, scored(0.5), results(0.1)))
    assert champion_of(mirror) == "1"
    said.append(register_model(mirror, scored(0.4), results(0.2)))
    assert champion_of(mirror) == "1"
    said.append(register_model(mirror, scored(0.9), results(0.3, test=("p1", "p3"))))
    assert champion_of(mirror) == "1"
    said.append(register_model(mirror, scored(0.9, metric="accuracy"), results(0.4)))
    assert champion_of(mirror) == "1"
    said.append(register_model(mirror, scored(0.6), results(0.5)))
    assert champion_of(mirror) == "6"
    before = "of version 1 0.5000, which keeps no other score, so expect a little less"
    assert [line.split("; ")[1] for line in said] == [
        "it is the champion, as the first",
        f"version 1 stays champion: macro_f1 on test pictures 0.5000, {before}",
        f"version 1 stays champion: macro_f1 on test pictures 0.4000, {before}",
        "not compared with the champion, version 1: that has another test set or metric",
        "not compared with the champion, version 1: that has another test set or metric",
        f"it is the champion now: macro_f1 on test pictures 0.6000, {before}",
    ]
    assert [score for _, score in versions_of(mirror)] == [0.5, 0.5, 0.4, 0.9, 0.75, 0.6]


def test_what_breaks_half_way_leaves_nothing_and_the_next_attempt_registers(mirror, results, monkeypatch):
    folder = results(0.0)

    def broken(*arguments, **options):
        raise OSError("the line is cut")

    with monkeypatch.context() as patch:
        patch.setattr(type(mirror.client), "create_model_version", broken)
        with pytest.raises(OSError, match="the line is cut"):
            register_model(mirror, REPORT, folder)
    assert list(mirror.client.search_logged_models([mirror.experiment])) == []
    assert register_model(mirror, REPORT, folder).endswith("as the first")
    assert versions_of(mirror) == [(1, 0.5)]


def of_pictures(*names):
    """The data set of that name with other pictures."""
    return replace(DATA, content=content_digest(names), sketch=content_sketch(names))


def test_another_data_set_of_the_same_name_has_a_model_of_its_own(mlflow_store, results):
    cans, leaves = of_pictures("c1", "c2", "c3"), of_pictures("l1", "l2", "l3")
    grown = of_pictures("c1", "c2", "c3", "c4")

    def register(data, study, bias):
        mirror = open_mirror(mlflow_store, study=study, study_id=study, data=data, tags={})
        said = register_model(mirror, scored(0.5, study=study), results(bias))
        return mirror.client.get_experiment(mirror.experiment).name, mirror.notice, said

    other = f"litter-{leaves.content[:6]}"
    assert register(cans, "a", 0.0)[:2] == ("litter", "")
    name, notice, said = register(leaves, "b", 0.1)
    assert name == other
    assert notice == (
        f"MLflow has experiment 'litter' of other pictures, so this data set has experiment '{other}'; "
        "dataset_name in the study's file gives it a name of its own"
    )
    assert said.startswith(f"wastetune-{other} version 1 is registered in MLflow; it is the champion, as the first\n")
    assert f"so this data set has model 'wastetune-{other}'" in said
    name, notice, said = register(grown, "c", 0.2)
    assert (name, notice, said.partition(" is registered")[0]) == ("litter", "", "wastetune-litter version 2")


def test_a_study_stays_in_the_experiment_where_its_runs_are(mlflow_store):
    """As one of an earlier version, when data sets of one name shared an experiment."""
    leaves, cans = of_pictures("l1"), of_pictures("c1")
    old = open_mirror(mlflow_store, study="a", study_id="a", data=DATA, tags={})
    open_mirror(mlflow_store, study="b", study_id="b", data=cans, tags={})
    again = open_mirror(mlflow_store, study="a", study_id="a", data=leaves, tags={})
    assert (again.experiment, again.parent) == (old.experiment, old.parent)


def test_a_model_of_an_earlier_version_is_of_another_data_set_if_its_classes_are_others(mirror, mlflow_store, results):
    register_model(mirror, scored(0.5), results(0.0))
    mirror.client.delete_registered_model_tag(NAME, "wastetune.data")
    cans = open_mirror(mlflow_store, study="b", study_id="b", data=of_pictures("c1"), tags={})
    tree = scored(0.5, study="b", classes=["bark", "leaf"])
    assert f"wastetune-litter-{cans.data.content[:6]} version 1" in register_model(cans, tree, results(0.1))
    assert "wastetune-litter version 2" in register_model(mirror, scored(0.5), results(0.2))


def test_a_folder_without_a_model_registers_nothing(mirror, tmp_path):
    assert register_model(mirror, REPORT, tmp_path) is None
    assert list(mirror.client.search_registered_models()) == []


@pytest.fixture
def registered(mirror, results):
    """The folder of a registered model."""
    register_model(mirror, REPORT, results(0.7))
    return mirror.client.get_model_version_by_alias(NAME, "champion").source


@pytest.fixture
def photo(tmp_path):
    """A picture of another size than the model's, as a file."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_registered_model_says_what_it_takes_and_gives(registered, results):
    import mlflow

    model = mlflow.pyfunc.load_model(registered)
    about = model.metadata
    assert (about.metadata["classes"], about.metadata["input_size"]) == (["box", "leaf"], 4)
    assert about.signature.outputs.input_names() == ["box", "leaf"]
    assert [column.type.name for column in about.signature.inputs] == ["binary"]
    assert model.predict(model.input_example).shape == (1, 2)


def test_pictures_of_any_size_and_kind_are_resized_as_in_training(registered, photo):
    import mlflow
    import pandas

    model = mlflow.pyfunc.load_model(registered)
    picture, content = read_picture(photo), photo.read_bytes()
    resized = resize_picture(picture, 4)
    expected = model.predict(resized[None]).iloc[0]
    pixels, text = np.asarray(picture), base64.b64encode(content).decode()
    for given in (
        *(str(photo), photo, content, text, f"data:image/png;base64,{text}", picture, pixels, pixels.astype(np.int64)),
        *(pixels.astype(np.float32), resized, resized.astype(np.float64), pixels[None], [photo, pixels, text]),
        *({"picture": [content]}, pandas.DataFrame({"picture": [content, content]}), pandas.Series([str(photo)])),
    ):
        made = model.predict(given)
        assert list(made.columns) == ["box", "leaf"]
        np.testing.assert_allclose(made, np.broadcast_to(expected, made.shape), atol=1e-6)
    assert len(model.predict([photo, pixels, text])) == 3


def test_what_is_no_picture_is_told_in_a_sentence(registered, photo, monkeypatch):
    import mlflow
    from mlflow.exceptions import MlflowException

    model = mlflow.pyfunc.load_model(registered)
    pixels = np.asarray(read_picture(photo))
    for given, reason in {
        "nothing.jpg": "picture 0 cannot be used: 'nothing.jpg' is neither a file that is there nor base64",
        b"text": "picture 0 cannot be used: not a picture Pillow can read",
        (str(photo), b""): "picture 1 cannot be used: empty file",
        (): "there is no picture in the input",
    }.items():
        with pytest.raises(MlflowException, match=re.escape(reason)):
            model.predict(list(given) if isinstance(given, tuple) else given)
    for array, reason in (
        (pixels / 255.0, "as if divided by 255"),
        (pixels.astype(int) - 256, "not from 0 to 255"),
        (np.full((3, 4, 3), np.nan), "not from 0 to 255"),
        (pixels[None, :, :, 0], "is none of arrays (height, width, 3)"),
    ):
        with pytest.raises(MlflowException, match=re.escape(reason)):
            model.predict(array)
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # as `mlflow models serve` sets it
    with pytest.raises(MlflowException, match="is no base64"):
        model.predict([str(photo)])


WITHOUT = """
import sys
sys.modules["wastetune"] = None
import mlflow
print(mlflow.pyfunc.load_model(sys.argv[1]).predict([sys.argv[2]]).to_dict("records"))
"""


@pytest.mark.slow
def test_it_runs_where_wastetune_is_not_installed(registered, photo):
    import mlflow

    expected = mlflow.pyfunc.load_model(registered).predict(photo).to_dict("records")
    command = [sys.executable, "-c", WITHOUT, registered.removeprefix("file://"), str(photo)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == [str(expected)], done.stderr[-2000:]


def test_its_requirements_are_those_of_its_training(registered):
    from pathlib import Path

    written = (Path(registered.removeprefix("file://")) / "requirements.txt").read_text()
    assert {"keras==3.15.1", "tensorflow==2.21.0"} <= set(written.split())


def test_the_test_set_is_known_by_its_pixels_and_classes_alone(tmp_path):
    table = tmp_path / "split.csv"

    def digest(*rows):
        table.write_text("\n".join(["path,class,bytes_sha256,pixels_sha256,split", *rows]) + "\n")
        return digest_of(table)

    one = digest("a,box,b,p1,test", "c,leaf,b,p2,test", "d,leaf,b,p3,train")
    assert digest("c,leaf,b,p2,test", "moved/a,box,other,p1,test") == one
    assert digest("a,leaf,b,p1,test", "c,leaf,b,p2,test") != one
    assert digest("a,box,b,p1,test", "c,leaf,b,p2,test", "d,leaf,b,p3,test") != one


def test_a_name_holds_nothing_that_means_something_to_mlflow():
    assert model_name("photos: 2026/05") == "wastetune-photos- 2026-05"
    assert model_name("müll") == "wastetune-müll"
    assert model_name("anna's") == "wastetune-anna-s"
