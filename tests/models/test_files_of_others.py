"""Files of models and archives that others made, by mistake or to harm: a sentence, and nothing of them is run."""

import json
import shutil
import warnings
import zipfile

import pytest

from support.fuzz import examples, or_one_sentence
from wastetune.datasets.download import unpack
from wastetune.errors import UserError
from wastetune.models.bundle import DESCRIPTION_FILE, MODEL_FILE
from wastetune.models.loading import INSIDE, open_model

hypothesis = pytest.importorskip("hypothesis", reason="needs pip install '.[dev]'")
from hypothesis import strategies as st  # noqa: E402

ABOUT = {"classes": ["can", "leaf"], "input_size": 8}


def with_lambda(file):
    """A model whose first layer would write a file."""
    import keras

    ran = file.with_name("ran")

    def harm(pixels, path=str(ran)):
        with open(path, "w"):  # noqa: PTH123
            return pixels

    pixels = keras.Input((8, 8, 3))
    model = keras.Model(pixels, keras.layers.Flatten()(keras.layers.Lambda(harm, output_shape=(8, 8, 3))(pixels)))
    model.save(file)
    ran.unlink(missing_ok=True)
    return ran


def with_code(file):
    """A model whose first layer is said to be a function of a module of Python."""
    import keras

    pixels = keras.Input((8, 8, 3))
    keras.Model(pixels, keras.layers.Flatten()(pixels)).save(file)
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    ran = file.with_name("ran")
    layer = config["config"]["layers"][1]
    layer |= {"module": "os", "class_name": "mkdir", "registered_name": "mkdir", "config": {"path": str(ran)}}
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return ran


@pytest.mark.parametrize("make", [with_lambda, with_code])
@pytest.mark.parametrize("kind", ["export", "bundle"])
def test_a_model_with_code_of_its_own_is_refused_in_a_sentence_and_nothing_runs(make, kind, tmp_path):
    file = tmp_path / (MODEL_FILE if kind == "bundle" else "model.keras")
    ran = make(file)
    if kind == "bundle":
        (tmp_path / DESCRIPTION_FILE).write_text(json.dumps(ABOUT))
    else:
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(INSIDE, json.dumps(ABOUT))
    with pytest.raises(UserError) as refused:
        open_model(tmp_path if kind == "bundle" else file)
    assert not ran.exists()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 700
    assert "code of its own" in str(refused.value)


def test_a_damaged_onnx_file_is_told_or_runs(brightness, tmp_path):
    whole = brightness.read_bytes()
    file = tmp_path / "model.onnx"

    @examples(40)
    @hypothesis.given(st.data())
    def read(data):
        content = bytearray(whole)
        match data.draw(st.sampled_from(["cut", "flip", "random"])):
            case "cut":
                del content[data.draw(st.integers(0, len(content) - 1)) :]
            case "flip":
                for _ in range(data.draw(st.integers(1, 3))):
                    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
            case _:
                content = data.draw(st.binary(max_size=200))
        file.write_bytes(content)
        with or_one_sentence():
            open_model(file)

    read()


names = st.one_of(
    st.text(max_size=6),
    st.lists(st.sampled_from(["top", "..", ".", "", "a", "/", "C:", "\\", "\0", "1.jpg"]), max_size=5).map("/".join),
)


def test_an_archive_writes_below_its_folder_or_not_at_all(tmp_path):
    archive, folder = tmp_path / "set.zip", tmp_path / "inner" / "made"

    @examples(60)
    @hypothesis.given(st.lists(st.tuples(names, st.binary(max_size=3)), min_size=1, max_size=4), st.data())
    def fetch(files, data):
        shutil.rmtree(folder, ignore_errors=True)
        with zipfile.ZipFile(archive, "w", data.draw(st.sampled_from([0, 8, 12, 14]))) as written:
            for name, content in files:
                warnings.simplefilter("ignore", UserWarning)  # two entries of one name are meant
                written.writestr(zipfile.ZipInfo(name), content)
        content = bytearray(archive.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        archive.write_bytes(content)
        with or_one_sentence():
            unpack(archive, folder, data.draw(st.sampled_from(["top", "."])))
        assert {path.name for path in tmp_path.iterdir()} <= {"set.zip", "inner"}
        if folder.parent.exists():
            assert {path.name for path in folder.parent.iterdir()} <= {"made"}
            assert not any(path.is_symlink() for path in folder.rglob("*"))

    fetch()
