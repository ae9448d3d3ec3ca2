"""The example notebook runs, cell after cell, and its service answers."""

import json
import os
import re
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[1] / "examples" / "from_photos_to_service.ipynb"


def test_the_notebook_goes_from_pictures_to_a_service_that_answers(mlflow_store, monkeypatch, start_python):
    pytest.importorskip("IPython")
    monkeypatch.setenv("PATH", os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    assert all(cell["execution_count"] for cell in cells), "it is committed with what it prints"
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
