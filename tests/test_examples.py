"""The example notebooks run, cell after cell, and say what they are committed with."""

import json
import os
import re
import sysconfig
from pathlib import Path

import pytest

from support.own_backbones import small_model

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"


def code_of(name):
    """The code of a notebook, which is committed with what it prints, and what that is."""
    cells = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    printed = [line for cell in cells for each in cell["outputs"] for line in each.get("text", ())]
    return "\n".join("".join(cell["source"]) for cell in cells), "".join(printed)


def on_a_small_backbone(code, folder, backbone, size):
    """The code with a small backbone instead of its own, which takes most of its time; all else is as it is."""
    folder.mkdir()
    small_model().save(folder / "own.keras")
    for shown, run in ((f'"{backbone}"', '"own.keras"'), ('weights    = "none"\n', ""), (f"image_size = {size}\n", "")):
        assert code.count(shown) == 1
        code = code.replace(shown, run)
    return code


@pytest.mark.long
def test_the_notebook_goes_from_pictures_to_a_service_that_answers(mlflow_store, monkeypatch, start_python, tmp_path):
    pytest.importorskip("IPython")
    monkeypatch.setenv("PATH", os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    code, _ = code_of("from_photos_to_service.ipynb")
    code = on_a_small_backbone(code, tmp_path / "from_photos_to_service", "resnet50", 64)
    shown = "print('\\n' + predictions.to_json(orient='records'))\nprint(json.dumps(answer))"
    process = start_python(f"import json\n{code}\n{shown}")
    stdout, stderr = process.communicate(timeout=280)
    assert process.returncode == 0, stderr
    assert "122 pictures in 3 classes" in stdout

    score, low, high = map(float, re.search(r"^macro F1 (\S+) \((\S+) to (\S+)\), default", stdout, re.M).groups())
    assert 0 < low <= score <= high <= 1
    assert re.search(r"^onnx +\S+ +100\.00%", stdout, re.M)
    *_, predictions, answer = (json.loads(line) for line in stdout.strip().splitlines()[-2:])
    assert [row["picture"] for row in predictions if row["problem"]] == ["new/leaf/broken.jpg"]
    (said,) = answer["predictions"]
    alone = next(row for row in predictions if row["picture"].endswith(said["filename"]))
    assert said["class"] == alone["class"]
    assert said["probability"] == pytest.approx(alone["probability"], abs=1e-3)


def test_the_notebook_of_keras_tuner_says_what_it_is_committed_with(mlflow_store, start_python, tmp_path):
    pytest.importorskip("keras_tuner")
    pytest.importorskip("tensorboard")
    code, printed = code_of("keras_tuner.ipynb")
    code = on_a_small_backbone(code, tmp_path / "keras_tuner_example", "mobilenet_v3_small_minimalistic", 32)
    process = start_python(code)
    stdout, stderr = process.communicate(timeout=280)
    assert process.returncode == 0, stderr
    # Scores and proposals depend on the processor in their last digits: what stays is compared.
    kept = [line for line in printed.splitlines() if not re.match(r" +\d+ complete", line)]
    assert len(kept) == 7
    assert [line for line in kept if line not in stdout.splitlines()] == []
