"""A study with a backbone of one's own, from its file to its export, for each kind of backbone."""

import json
import re
import warnings

import numpy as np
import pytest

from support.own_backbones import save_dinov2, save_onnx, small_model
from wastetune.backbones.cuts import TOP
from wastetune.backbones.runtime import open_trunk
from wastetune.checks.reproduce import reproduce_trial
from wastetune.console import open_console
from wastetune.data.splits import write_split_table
from wastetune.errors import UserError
from wastetune.evaluation.novelty import likeness
from wastetune.models.bundle import BundleDescription, load_centres, load_model
from wastetune.models.export import write_export
from wastetune.models.loading import open_model
from wastetune.models.saliency import open_saliency_model
from wastetune.storage.study import read_trials
from wastetune.study.final import refit_winner
from wastetune.study.summary import summarize
from wastetune.tuning.prepare import join_study, prepare_study
from wastetune.tuning.spec import load_study
from wastetune.tuning.workers.progress import render_preparation
from wastetune.tuning.workers.worker import run_worker

TAILS = "frozen_depth = { float = [0.4, 1.0], default = 0.7 }"
KINDS = {
    "keras": ("own.keras", ""),
    "onnx": ("own.onnx", 'preprocessing = "unit"\n'),
    "hub": ("keras_hub:own", ""),
}


@pytest.fixture(params=KINDS)
def study_file(request, tmp_path, tiny_heads):
    """A study of three trials, its backbone and its space in one folder, which is not the working directory."""
    kind = request.param
    if kind == "keras":
        small_model().save(tmp_path / "own.keras")
    elif kind == "onnx":
        pytest.importorskip("tf2onnx", reason="needs pip install 'wastetune[onnx]'")
        save_onnx(tmp_path / "own.onnx")
    else:
        pytest.importorskip("keras_hub", reason="needs pip install 'wastetune[hub]'")
        save_dinov2(tmp_path / "own")
    return write_study(tmp_path, tiny_heads, *KINDS[kind], tails=kind == "keras")  # a tail of DINOv2 takes minutes


def write_study(folder, like, backbone, keys, *, tails):
    space = (like.parent / "tiny_space.toml").read_text()
    (folder / "space.toml").write_text(space.replace("frozen_depth = 1.0", TAILS) if tails else space)
    text = re.sub(r"(?m)^(backbone|space) = .*\n", "", like.read_text())
    study = folder / "own.toml"
    study.write_text(f'{text}backbone = "{backbone}"\nspace = "{folder / "space.toml"}"\n{keys}')
    return study


def prepare(path):
    return prepare_study(load_study(str(path)), data=None, weights=None, console=open_console(quiet=True))


@pytest.mark.slow
def test_it_goes_from_its_file_to_its_export(study_file, tmp_path):
    prepared, console = prepare(study_file), open_console(quiet=True)
    backbone, results = prepared.context.backbone, tmp_path / "results"
    told = {"preprocessing", "layer"} & prepared.fingerprint.keys()
    assert told == ({"preprocessing"} if backbone.onnx else set())
    if backbone.left_off:
        assert f"left off, as its classification head: {backbone.left_off[0]}" in "\n".join(
            render_preparation(prepared)
        )
    study = join_study(prepared, f"sqlite:///{tmp_path / 'own.db'}", console)
    count = 1 if backbone.name == "own.keras" else 3  # each fit of a tail is compiled
    run_worker(study, prepared.context, trials=count, timeout=None, bar=console.bar, on_trial=lambda trial: None)
    trials = read_trials(study)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * count, [each.user_attrs for each in trials]
    refitted = refit_winner(study, prepared, results, console)
    report = summarize(study, prepared, refitted, 0.0)
    assert report.model.parameters > report.model.trained > 0
    assert reproduce_trial(study, prepared, trials[-1].number, results, console).is_same()

    bundle, pictures = results / "bundle", prepared.test.read(range(4))
    model = open_model(bundle)
    said, alike = model.outputs(pictures)
    np.testing.assert_allclose(said, refitted.predictions.probabilities[:4], atol=0.02)
    export = write_export(bundle, "onnx", results / "export")
    exported = open_model(export)
    assert exported.about == model.about
    again, still_alike = exported.outputs(pictures)
    np.testing.assert_allclose(again, said, atol=1e-4)
    np.testing.assert_allclose(still_alike, alike, atol=1e-3)
    if backbone.onnx is not None:
        assert not (bundle / "model.keras").exists()
        with pytest.raises(UserError, match="cannot be converted to LiteRT; export it with --format onnx"):
            write_export(bundle, "litert", results / "export")
        for opener in (load_model, open_saliency_model):
            with pytest.raises(UserError, match="predict, evaluate, serve and export --format onnx can"):
                opener(bundle)
        assert open_model(bundle / "model.onnx").about == model.about
        ((features,),) = open_trunk(backbone, (TOP,)).run([pictures])
        np.testing.assert_allclose(alike, likeness(features, load_centres(bundle)), atol=1e-5)
    elif backbone.name == "own.keras":
        explained = open_saliency_model(bundle).explain(pictures[0])
        np.testing.assert_allclose(explained.probabilities, said[0], atol=1e-4)
    else:
        with pytest.raises(UserError, match="does not end in the mean of a map of places"):
            open_saliency_model(bundle)
    registered_says_the_same(results, report, prepared, pictures, said, tmp_path)


def registered_says_the_same(results, report, prepared, pictures, said, tmp_path):
    """The model as MLflow keeps it, in this process."""
    from wastetune.tracking.model_code.save import save_mlflow_model

    write_split_table(prepared.index, prepared.splits, results / "split.csv")
    save_mlflow_model(tmp_path / "logged", results, report, "m-1", pictures=tmp_path)
    requirements = (tmp_path / "logged" / "requirements.txt").read_text()
    wanted = "onnxruntime" if (results / "bundle" / "model.onnx").exists() else "keras"
    assert f"{wanted}==" in requirements
    assert ("keras-hub==" in requirements) == (report.backbone == "keras_hub:own")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns about its own types
        from mlflow import pyfunc

        table = pyfunc.load_model(str(tmp_path / "logged")).predict(list(pictures))
    np.testing.assert_allclose(table.to_numpy(), said, atol=1e-4)


def test_an_exchanged_file_is_noticed(tmp_path, tiny_heads):
    small_model().save(tmp_path / "own.keras")
    study = write_study(tmp_path, tiny_heads, "own.keras", "", tails=False)
    url, console = f"sqlite:///{tmp_path / 'own.db'}", open_console(quiet=True)
    join_study(prepare(study), url, console)
    join_study(prepare(study), url, console)
    small_model(seed=1).save(tmp_path / "own.keras")
    with pytest.raises(UserError, match="begun with another weights"):
        join_study(prepare(study), url, console)


def test_a_space_that_would_train_an_onnx_file_is_refused_before_pictures_are_read(tmp_path, tiny_heads, monkeypatch):
    monkeypatch.setattr("wastetune.tuning.prepare.index_folder", None)
    save_onnx(tmp_path / "own.onnx")
    study = write_study(tmp_path, tiny_heads, *KINDS["onnx"], tails=True)
    with pytest.raises(UserError, match=r'own\.toml: space = .*own\.onnx stays frozen.* choose space = "head"'):
        prepare(study)


@pytest.mark.parametrize("key", ["objectives", "backbone"])
def test_an_onnx_file_among_several_or_with_objectives_is_refused_before_pictures_are_read(
    tmp_path, tiny_heads, monkeypatch, key
):
    monkeypatch.setattr("wastetune.tuning.prepare.index_folder", None)
    save_onnx(tmp_path / "own.onnx")
    study = write_study(tmp_path, tiny_heads, *KINDS["onnx"], tails=False)
    if key == "objectives":
        study.write_text(study.read_text() + 'objectives = ["macro_f1", "parameters"]\n')
    else:
        save_onnx(tmp_path / "other.onnx")
        study.write_text(study.read_text().replace('"own.onnx"', '["own.onnx", "other.onnx"]'))
    with pytest.raises(UserError, match=r"own\.onnx, an ONNX file, cost is not measured: make it the study's only"):
        prepare(study)


def test_a_mistake_in_the_backbone_is_told_with_its_key_before_pictures_are_read(tmp_path, tiny_heads, monkeypatch):
    monkeypatch.setattr("wastetune.tuning.prepare.index_folder", None)
    study = write_study(tmp_path, tiny_heads, "own.keras", "", tails=False)
    with pytest.raises(UserError, match=r"own\.toml: backbone = 'own\.keras': there is no file .*own\.keras"):
        prepare(study)


def test_a_description_keeps_its_keys():
    about = BundleDescription(classes=("a", "b"), input_size=8, backbone="models/own.onnx")
    assert BundleDescription.from_dict(json.loads(json.dumps(about.to_dict()))) == about
