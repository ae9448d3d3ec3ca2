"""Drawn pictures, and a study that is small enough to train in a second."""

import json
import os
import re
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
frozen_depth = { float = [0.9, 1.0], default = 1.0 }
augmentation = { choice = [0.0, 1.0], default = 0.0 }
epochs = 2
"""


STUDY = """\
# Does the whole path work?
# wastetune run --study tiny.toml
dataset = "{pictures}"
backbone = "mobilenet_v3_small_minimalistic"
space = "{space}"
trials = 3
weights = "none"
image_size = 32
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
    """The path of a study file whose trials take about a second; its space lies beside it."""
    return once("study", partial(_write_study, pictures, SPACE)) / "tiny.toml"


@pytest.fixture(scope="session")
def tiny_heads(once, pictures):
    """The same study with heads alone: no trial compiles a part of the backbone."""
    space = SPACE.replace("{ float = [0.9, 1.0], default = 1.0 }", "1.0")
    return once("heads", partial(_write_study, pictures, space)) / "tiny.toml"


def _write_study(pictures, space, folder):
    (folder / "tiny_space.toml").write_text(space)
    (folder / "tiny.toml").write_text(STUDY.format(pictures=pictures, space=folder / "tiny_space.toml"))


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


@pytest.fixture(scope="session")
def shallow(once, pictures):
    """The same with a backbone of three convolutions: training all of MobileNet takes 15 s to compile."""

    def write(folder):
        small_model().save(folder / "own.keras")
        _write_study(pictures, SPACE, folder)
        text = re.sub(r"(?m)^(weights|image_size) = .*\n", "", (folder / "tiny.toml").read_text())
        (folder / "tiny.toml").write_text(text.replace("mobilenet_v3_small_minimalistic", "own.keras"))

    study = load_study(str(once("shallow", write) / "tiny.toml"))
    return prepare_study(study, data=None, weights=None, console=open_console())
