"""The rooms of the design: each imports only earlier ones, and each big library has its own rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wastetune

SOURCE = Path(wastetune.__file__).parent

# The one place where the order stands. A room listed but not built yet is fine; a file not listed is not.
ORDER = """
errors places interrupts patience locks database seeding terminal toml_file metrics spec parameters space
data.archive data.sources data.layout data.looks data.picture data.index data.splits data.pixels data.sample
architectures backbone runtime augment activations schedule head perceptron training bundle models objective prepare
storage sketches notes artifacts dashboard lease tracking registry mirroring search worker launch retrain plots report
record history published predictions predictor latency export checks attention
similar page.scales page.charts page.standing page.figures
page.thumbnails page.page compare progress status run ui
serve.batching serve.intake serve.gauges serve.answers serve.api serve.listening serve.server
serve.exhibit serve.plates serve.app serve.showing
api cli __main__
"""
ROOMS = ORDER.split()

# Library -> the rooms that may import it, at whatever depth; for annotations alone (TYPE_CHECKING) any may.
LIBRARIES = {
    "keras": "backbone runtime augment activations head training bundle export attention",
    "optuna": "space objective database storage artifacts dashboard search worker history report",
    "optuna_dashboard": "ui",
    "mlflow": "tracking registry",
    "pandas": "api",
    "tensorflow": "runtime models export",
    "onnxruntime": "models",
    "ai_edge_litert": "models",
    "tf2onnx": "export",
    "openvino": "runtime",
    "fastapi": "serve.api",
    "starlette": "serve.intake serve.showing",
    "uvicorn": "serve.listening",
    "prometheus_client": "serve.gauges",
    "streamlit": "serve.app serve.showing",
}


def room_of(module):
    """data.index for wastetune.data.index.Picture; None for what is no room."""
    name = module.removeprefix("wastetune.")
    return next((room for room in ROOMS if f"{name}.".startswith(f"{room}.")), None)


def module_of(path):
    return ".".join(("wastetune", *path.relative_to(SOURCE).with_suffix("").parts))


def imports(path):
    """(module, is it imported when the program runs) for every import, also those inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # Relative imports would hide from the rules below; `from package import room` names a room too.
            assert node.level == 0, f"{path}: write `from wastetune...` in full"
            yield node.module, node not in guarded
            yield from ((f"{node.module}.{alias.name}", node not in guarded) for alias in node.names)


FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path.name != "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_room_imports_only_earlier_rooms_and_its_own_libraries(path):
    here = room_of(module_of(path))
    assert here, f"{path.name} is not in the table of this test: give it a place"
    for module, runs in imports(path):
        there = room_of(module) if module.startswith("wastetune.") else None
        if there:
            assert ROOMS.index(there) <= ROOMS.index(here), f"{here} imports {there}, a later room"
        library = module.split(".")[0]
        if runs and library in LIBRARIES:
            assert here in LIBRARIES[library].split(), f"{here} imports {library}"


def test_the_command_line_starts_without_the_heavy_libraries():
    if not (SOURCE / "cli.py").exists():
        pytest.skip("there is no command line yet")
    heavy = {
        "keras",
        "tensorflow",
        "openvino",
        "optuna",
        "mlflow",
        "sklearn",
        "pandas",
        "matplotlib",
        "fastapi",
        "streamlit",
    }
    code = "import sys, wastetune.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not heavy & set(loaded.split())
