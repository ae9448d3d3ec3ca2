"""An export is the same model: every format, what is inside it, how it is checked, and what is said when it is not."""

import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import wastetune
from wastetune import UserError
from wastetune.cli.model import export as export_command
from wastetune.data.image import read_picture, resize_picture
from wastetune.models import export, parity
from wastetune.models.bundle import DESCRIPTION_FILE, load_description, save_centres
from wastetune.models.export import FORMATS, Format, Source, write_export
from wastetune.models.loading import open_model
from wastetune.models.parity import export_study, read_checks, refused, render_losses

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_heads, empty_store):
    """A folder in which a study was run, as `wastetune run` leaves it."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "mlruns").mkdir()
    shutil.copyfile(empty_store, folder / "mlruns" / "mlflow.db")
    wastetune.run_study(
        tiny_heads,
        trials=1,
        storage=f"sqlite:///{folder / 'wastetune.db'}",
        tracking_uri=f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}",
        results=folder / "results",
        quiet=True,
    )
    # Two epochs on random weights say .500 of everything; this one is sure, now of the one class, now of the other.
    bundle = folder / "results" / "tiny" / "bundle"
    sharp_model().save(bundle / "model.keras")
    centres = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    save_centres(bundle, centres / np.linalg.norm(centres, axis=1, keepdims=True))
    return folder


def sharp_model():
    """A small network with the kinds of layers that backbones have, whose answers lie far apart."""
    import keras
    from keras import layers

    glorot, normal = keras.initializers.GlorotUniform(seed=9), keras.initializers.RandomNormal(stddev=2.0, seed=9)
    pixels = keras.Input((32, 32, 3), name="pixels")
    # A model within the model, and constants that are no weights: so is the preprocessing of some backbones.
    inner = keras.Input((32, 32, 3))
    centred = layers.Normalization(mean=[104.0, 117.0, 124.0], variance=[3000.0, 4000.0, 5000.0])(inner)
    made = keras.Model(inner, centred)(pixels)
    made = layers.Conv2D(8, 3, strides=2, use_bias=False, kernel_initializer=glorot)(made)
    made = layers.BatchNormalization()(made)
    made = layers.Activation("gelu")(layers.Activation("hard_silu")(made))
    made = layers.DepthwiseConv2D(3, padding="same", depthwise_initializer=glorot)(made)
    trunk = keras.Model(pixels, made, name="trunk")
    pixels = keras.Input((32, 32, 3), name="pixels")
    made = trunk(pixels)
    made = layers.GlobalAveragePooling2D()(layers.ReLU(max_value=6)(made))
    centred = layers.LayerNormalization()(made)
    return keras.Model(pixels, layers.Softmax()(layers.Dense(2, kernel_initializer=normal)(centred)))


@pytest.fixture(scope="module")
def results(ran):
    return ran / "results" / "tiny"


@pytest.fixture(scope="module")
def bundle(results):
    return results / "bundle"


@pytest.fixture(scope="module")
def onnx(bundle, tmp_path_factory):
    return write_export(bundle, "onnx", tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def pixels(pictures):
    return np.stack(
        [resize_picture(read_picture(path), 32) for path in sorted((pictures / "leaf").glob("leaf*.jpg"))[:5]]
    )


@pytest.mark.parametrize("format", FORMATS)
def test_it_gives_the_probabilities_of_the_original_and_says_what_it_is(format, bundle, pixels, tmp_path):
    original, file = open_model(bundle), write_export(bundle, format, tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == [FORMATS[format].file]
    model = open_model(file)
    assert (model.classes, model.size) == (("box", "leaf"), 32)
    assert model.about == load_description(bundle)
    close = 1e-4 if FORMATS[format].exact else 0.3
    assert np.ptp(original.run(pixels)[:, 0]) > 0.2
    for some in (pixels, pixels[:1]):
        said = model.run(some)
        assert said.shape == (len(some), 2)
        assert said.dtype == np.float32
        np.testing.assert_allclose(said, original.run(some), atol=close)
        known = [likeness for _, likeness in model.predict(some)]
        assert len(some) == 1 or -1 < min(known) < max(known) - 0.01 < 1
        np.testing.assert_allclose(known, [likeness for _, likeness in original.predict(some)], atol=close)


def test_the_command_line_knows_every_format():
    (option,) = (each for each in export_command.params if each.name == "formats")
    assert sorted(option.type.choices) == sorted(FORMATS)


def test_the_classes_can_be_read_without_wastetune(bundle, onnx, tmp_path):
    for format in ("keras", "litert"):
        with zipfile.ZipFile(write_export(bundle, format, tmp_path)) as archive:
            assert archive.read("labels.txt") == b"box\nleaf\n"
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx)
    assert json.loads(session.get_modelmeta().custom_metadata_map["wastetune"])["classes"] == ["box", "leaf"]
    (given,), outputs = session.get_inputs(), {each.name: each for each in session.get_outputs()}
    assert outputs.keys() == {"probabilities", "likeness"}
    gives = outputs["probabilities"]
    assert (outputs["likeness"].type, len(outputs["likeness"].shape)) == ("tensor(float)", 1)
    assert (given.name, given.type, given.shape[1:]) == ("pixels", "tensor(uint8)", [32, 32, 3])
    assert (gives.name, gives.type) == ("probabilities", "tensor(float)")


def test_an_onnx_file_needs_no_tensorflow(onnx):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'keras', 'pandas', 'mlflow', 'optuna', 'cv2']));"
        "from pathlib import Path; import numpy; from wastetune.models.loading import open_model;"
        "print(open_model(Path(sys.argv[1])).run(numpy.zeros((3, 32, 32, 3), 'uint8')).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(onnx)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(3, 2)\n", "")


@pytest.mark.parametrize(
    ("module", "format", "sentence"),
    [
        ("tf2onnx", "onnx", "export to ONNX needs more packages"),
        ("onnxruntime", "onnx", "needs ONNX Runtime"),
        ("ai_edge_litert.interpreter", "litert", "needs LiteRT"),
    ],
)
def test_a_missing_package_is_told_with_how_to_install_it(module, format, sentence, bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=sentence) as error:
        open_model(write_export(bundle, format, tmp_path))
    assert f"pip install 'wastetune[{format}]'" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("nothing.onnx", None, "does not exist; name a study's bundle"),
        ("broken.onnx", b"no model", "cannot be read: .*; export it again"),
        ("broken.tflite", b"no model", "cannot be read: .*; export it again"),
        ("broken.keras", b"no model", r"it was not exported by wastetune \(no wastetune.json inside\)"),
        ("notes.txt", b"", "is no model: neither a study's bundle"),
    ],
)
def test_what_is_no_model_is_told_in_a_sentence(name, content, sentence, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        open_model(tmp_path / name)


def test_an_onnx_file_of_others_is_refused(onnx, tmp_path):
    import onnx as library

    made = library.load(onnx)
    del made.metadata_props[:]
    library.save(made, tmp_path / "other.onnx")
    with pytest.raises(UserError, match="not exported by wastetune"):
        open_model(tmp_path / "other.onnx")


def test_a_file_that_says_otherwise_is_an_error_and_does_not_stay(ran, results, pictures, tmp_path, monkeypatch):
    def write_another(source, file):
        import keras

        turned = keras.ops.flip(source.model.outputs[0], axis=-1)
        export._write_onnx(Source(keras.Model(source.model.inputs, turned), source.about), file)

    shutil.copytree(results, tmp_path / "results")
    monkeypatch.setitem(FORMATS, "onnx", Format("model.onnx", "ONNX", write_another))
    monkeypatch.setattr(parity, "THREADS", ())
    with pytest.raises(UserError, match=r"differs from the original by 0\.\d+ in an output \(0.001 is allowed\)"):
        export_study(tmp_path / "results", pictures, ["onnx"])
    assert not list((tmp_path / "results" / "export").iterdir())


def test_a_file_that_loses_too_much_does_not_stay_unless_that_is_allowed(results, pictures, tmp_path, monkeypatch):
    def turned(model):
        import keras

        return keras.Model(model.inputs, keras.ops.flip(model.outputs[0], axis=-1))

    def write_worse(source, file):
        export._write_keras(Source(turned(source.model), source.about), file)

    shutil.copytree(results, tmp_path / "results")
    folder = tmp_path / "results" / "export"
    shutil.rmtree(folder, ignore_errors=True)
    monkeypatch.setitem(FORMATS, "litert-int8", Format("worse.keras", "Worse", write_worse, exact=False))
    monkeypatch.setattr(parity, "THREADS", ())
    (kept,) = export_study(tmp_path / "results", pictures, ["litert-int8"], max_loss=1.0)[1:]
    assert refused([kept], 1.0) == []
    assert (folder / "worse.keras").is_file()
    assert set(read_checks(folder)) == {"bundle", "litert-int8"}
    allowed = kept.f1_macro_lost - 0.001  # of eight pictures it may even gain
    checks = export_study(tmp_path / "results", pictures, ["litert-int8"], max_loss=allowed)
    assert [check.format for check in refused(checks, allowed)] == ["litert-int8"]
    assert {path.name for path in folder.iterdir()} == {"export.json"}
    assert set(read_checks(folder)) == {"bundle"}
    (sentence,) = render_losses(checks, allowed)
    assert sentence.startswith("litert-int8 loses ")
    assert sentence.endswith("; its file was deleted")
    lossy = kept.model_copy(update={"f1_macro_lost": 0.054})
    (sentence,) = render_losses([lossy], 0.06)  # it is kept, and said
    assert "loses 0.0540 of macro F1" in sentence
    assert "deleted" not in sentence


def test_a_test_picture_that_is_gone_is_told(results, pictures, tmp_path):
    with pytest.raises(UserError, match="a test picture is not there as it was: Cannot read"):
        export_study(results, tmp_path, ["onnx"])


def test_the_command_checks_writes_and_logs(ran, results, tiny_heads, start_in):
    def run(*arguments):
        process = start_in(ran, *arguments)
        said, problem = process.communicate(timeout=280)
        return process.returncode, said, problem

    status, said, problem = run("export", "--study", tiny_heads, "--format", "onnx")
    assert (status, problem) == (0, "")
    kept = json.loads((results / "export" / "export.json").read_text())
    assert list(kept) == ["bundle", "onnx"]
    for name, row in kept.items():
        assert row["pictures"] == sum(",test" in line for line in (results / "split.csv").read_text().splitlines())
        assert row["largest_difference"] <= 1e-4
        assert all(0 < row["latency"][count]["median"] <= row["latency"][count]["p95"] for count in ("1", "2"))
        assert f"\n{name}  " in said

    from mlflow import MlflowClient

    def logged():
        client = MlflowClient(f"sqlite:///{ran / 'mlruns' / 'mlflow.db'}")
        (experiment,) = (each for each in client.search_experiments() if each.name == "pictures")
        (final,) = client.search_runs([experiment.experiment_id], "tags.`wastetune.trial` = 'final'")
        return final.data.metrics, {each.path for each in client.list_artifacts(final.info.run_id, "export")}

    metrics, files = logged()
    told = {"largest_difference": kept["onnx"]["largest_difference"]}
    told["ms_1_threads"] = kept["onnx"]["latency"]["1"]["median"]
    assert {key: metrics[f"export_onnx_{key}"] for key in told} == pytest.approx(told, rel=1e-3)  # in four digits
    assert files == {f"export/{name}" for name in ("model.onnx", "export.json")}

    # The report is copied anew, and with it what belongs to it.
    report = json.loads((results / "report.json").read_text())
    (results / "report.json").write_text(json.dumps({**report, "question": "Another?"}))
    assert run("sync", "--study", "tiny")[0] == 0
    assert logged() == (metrics, files)
    (results / "report.json").write_text(json.dumps(report))


def test_exports_of_an_earlier_winner_go(ran, tiny_heads, tmp_path):
    shutil.copytree(ran, tmp_path / "ran")
    results = tmp_path / "ran" / "results" / "tiny"
    (results / "export").mkdir(exist_ok=True)
    (results / "export" / "model.onnx").write_bytes(b"of an earlier winner")
    places = {
        "storage": f"sqlite:///{tmp_path / 'ran' / 'wastetune.db'}",
        "tracking_uri": f"sqlite:///{tmp_path / 'ran' / 'mlruns' / 'mlflow.db'}",
        "results": tmp_path / "ran" / "results",
        "quiet": True,
    }
    wastetune.run_study(tiny_heads, trials=1, **places)
    assert (results / "export").exists()
    (results / "report.json").unlink()
    wastetune.run_study(tiny_heads, trials=1, **places)
    assert not (results / "export").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["export", "--study", "demo", "--format", "onnx"], "study 'demo' has no model in results/demo; run it first"),
        (["export", "--study", "dmeo", "--format", "onnx"], "did you mean demo?"),
        (["predict", "x.jpg"], "name either a study with --study or a model with --bundle"),
        (["predict", "--study", "demo", "--bundle", "b", "x.jpg"], "name either a study with --study or a model"),
        (["predict", "--study", "demo", "x.jpg"], "study 'demo' has no model in results/demo"),
        (["predict", "--bundle", "nowhere", "x.jpg"], "nowhere does not exist"),
        (["predict", "--bundle", "nowhere", "--json", "--csv", "x.jpg"], "--json and --csv ask for two forms at once"),
    ],
)
def test_mistakes_are_told_in_one_sentence(arguments, sentence, run_cli, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"")
    done = run_cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_description_file_is_what_makes_a_folder_a_bundle(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / DESCRIPTION_FILE).unlink()
    with pytest.raises(UserError, match="is no model"):
        open_model(tmp_path / "bundle")
