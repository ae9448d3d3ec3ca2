"""The rooms: each imports only earlier ones, none is crowded, and big libraries stay where they belong."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import wastetune

SOURCE = Path(wastetune.__file__).parent

# The order in which rooms may import each other: each only earlier ones. The root is the ground under all of them, but
# for the front door (`api`, `keras_tuner`, `__init__`, `__main__`), which stands on top.
ROOMS = (
    "datasets",
    "data",
    "backbones",
    "evaluation",
    "training",
    "storage",
    "search",
    "models",
    "report",
    "tracking",
    "serving",
    "tuning",
    "study",
    "checks",
    "cli",
)
FRONT_DOOR = {"wastetune", "wastetune.api", "wastetune.keras_tuner", "wastetune.__main__"}
MOST_FILES = 9

# Library -> the rooms or modules that may import it, at whatever depth; for annotations (TYPE_CHECKING) any may.
LIBRARIES = {
    "keras": "backbones training models.bundle models.export models.saliency tracking.model_code.loader",
    "keras_tuner": "training.custom_head keras_tuner",
    "optuna": "storage search tracking.artifacts tracking.dashboard tuning study",
    "optuna_dashboard": "tracking.ui",
    "mlflow": "tracking",
    "pandas": "api tracking.model_code.loader",
    "joblib": "study.fits",
    "sklearn": "evaluation.shift evaluation.novelty",
    "keras_hub": "backbones.own.keras_file backbones.own.hub_preset tracking.model_code.loader",
    "tensorflow": "backbones.runtime backbones.own.onnx_trunk models",
    "onnx": "backbones.own.onnx_trunk models.export models.latency",
    "onnxruntime": "backbones.own.onnx_trunk tracking.model_code.loader",
    "ai_edge_litert": "models.loading",
    "tf2onnx": "backbones.own.onnx_trunk",
    "openvino": "backbones.runtime",
    "fastapi": "serving.api",
    "starlette": "serving.uploads serving.app",
    "uvicorn": "serving.server",
    "prometheus_client": "serving.prometheus",
    "streamlit": "serving.app",
}


def name_of(path):
    """wastetune.data.index for .../data/index.py, wastetune.data for .../data/__init__.py."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def room_of(module):
    """`data` for wastetune.data.index; `root` for what lies beside the rooms."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "root"


def floor_of(module):
    """How high a module stands."""
    room = room_of(module)
    return len(ROOMS) if module in FRONT_DOOR else -1 if room == "root" else ROOMS.index(room)


def imports(path):
    """(module, whether it is imported when the program runs) for every import, also those inside functions."""
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
            # Relative imports would hide from the rules below.
            assert node.level == 0, f"{path}: write `from wastetune...` in full"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner if inner in MODULES else node.module), node not in guarded


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_earlier_rooms_and_its_own_libraries(module):
    for imported, runs in imports(MODULES[module]):
        if imported.split(".")[0] == "wastetune":
            assert imported in MODULES, f"{module} imports {imported}, which is not there"
            assert floor_of(imported) <= floor_of(module), f"{module} imports {imported}, a later room"
        allowed = LIBRARIES.get(imported.split(".")[0])
        if runs and allowed is not None:
            inside = module.removeprefix("wastetune.")
            assert {inside, room_of(module)} & set(allowed.split()), f"{module} imports {imported}"


def test_no_imports_go_in_a_circle():
    graph = {
        module: {imported for imported, runs in imports(path) if runs and imported in MODULES} - {module}
        for module, path in MODULES.items()
        if module not in FRONT_DOOR
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_a_room_holds_at_most_nine_files(room):
    files = [path for path in (SOURCE / room).glob("*.py") if name_of(path) not in FRONT_DOOR | {f"wastetune.{room}"}]
    assert 0 < len(files) <= MOST_FILES, [path.name for path in files]


def test_every_folder_is_a_room_of_this_table():
    folders = {path.parent.name for path in SOURCE.glob("*/*.py")}
    assert folders == set(ROOMS)


def test_the_command_line_starts_without_the_heavy_libraries():
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
    code = (
        "import sys, click; from wastetune.cli.main import main; "
        "main.get_help(click.Context(main)); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not heavy & set(loaded.split())
