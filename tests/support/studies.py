"""Drawn pictures, and a study that is small enough to train in a second."""

import json
import os
import shutil
from functools import partial

import pytest
from filelock import FileLock

import wastetune
from support.own_backbones import small_model
from wastetune.console import open_console
from wastetune.datasets.synthetic import write_sample
from wastetune.search.space import load_space
from wastetune.tuning.prepare import prepare_study
from wastetune.tuning.spec import load_study

SPACE = """\
head_layers = { int = [0, 1], default = 0 }
head_units = { int = [4, 8], default = 8, when = "head_layers > 0" }
dropout = 0.1
learning_rate = { float = [1e-3, 1e-1], log = true, default = 1e-2 }
batch_size = 16
frozen_depth = { float = [0.6, 1.0], default = 1.0 }
augmentation = { choice = [0.0, 1.0], default = 0.0 }
epochs = 2
"""
HEADS = SPACE.replace("{ float = [0.6, 1.0], default = 1.0 }", "1.0")
MOBILENET = "mobilenet_v3_small_minimalistic"

STUDY = """\
# Does the whole path work?
# wastetune run --study tiny.toml
dataset = "{pictures}"
backbone = "{backbone}"
space = "{space}"
trials = 3
views = 2
"""


@pytest.fixture
def write_space(tmp_path):
    """The search space of a text, as its file has it."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return load_space(str(path))

    return write


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Makes a folder once for all processes of this run of the tests; whichever asks first does it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name, write):
        folder, made = root / name, root / f"{name}.made"
        with FileLock(root / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                write(folder)
                made.touch()
        return folder

    return make


# These are the same files for all processes: the report of `ran` names the file that its study was read from.
@pytest.fixture(scope="session")
def pictures(once):
    """A folder of 42 drawn pictures in two classes, among them one in both classes, one broken."""
    sample = {"classes": ("box", "leaf"), "per_class": 20, "size": 48}
    return once("drawn", lambda folder: write_sample(folder / "pictures", **sample)) / "pictures"


@pytest.fixture(scope="session")
def tiny(once, pictures):
    """The path of a study file whose trials take about a second; its space and its backbone lie beside it."""
    return once("study", partial(write_study, pictures=pictures)) / "tiny.toml"


@pytest.fixture(scope="session")
def tiny_heads(once, pictures):
    """The same study with heads alone: no trial compiles a part of the backbone."""
    return once("heads", partial(write_study, pictures=pictures, space=HEADS)) / "tiny.toml"


@pytest.fixture(scope="session")
def tiny_mobilenet(once, pictures):
    """The same study with a backbone that ships with Keras, which takes some seconds more."""
    space = SPACE.replace("[0.6, 1.0]", "[0.9, 1.0]")  # one block: more of them take long to compile
    return once("mobilenet", partial(write_study, pictures=pictures, space=space, backbone=MOBILENET)) / "tiny.toml"


def write_study(folder, pictures, space=SPACE, backbone=None):
    """Writes tiny.toml and tiny_space.toml; gives the study's path. The backbone is a small one unless it is named."""
    if backbone is None:
        small_model().save(folder / "small.keras")
    (folder / "tiny_space.toml").write_text(space)
    text = STUDY if backbone is None else STUDY + 'weights = "none"\nimage_size = 32\n'
    file, space_file = folder / "tiny.toml", folder / "tiny_space.toml"
    file.write_text(text.format(pictures=pictures, space=space_file, backbone=backbone or folder / "small.keras"))
    return file


@pytest.fixture(scope="session")
def ran(once, tiny_heads, empty_store):
    """The folder of a finished study of three heads, to be read alone: all tests share it. In `given.json` is what
    `wastetune.run_study` gave."""

    def write(folder):
        (folder / "mlruns").mkdir()
        shutil.copyfile(empty_store, folder / "mlruns" / "mlflow.db")
        given = wastetune.run_study(
            tiny_heads,
            storage=f"sqlite:///{folder / 'wastetune.db'}",
            tracking_uri=f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}",
            results=folder / "results",
            quiet=True,
        )
        (folder / "given.json").write_text(json.dumps(given))

    return once("ran", write)


@pytest.fixture(scope="session")
def prepared(tiny):
    """That study, ready to run."""
    return prepare_study(load_study(str(tiny)), data=None, weights=None, console=open_console())


@pytest.fixture(scope="session")
def context(prepared):
    """What is the same for every trial of that study."""
    return prepared.context
