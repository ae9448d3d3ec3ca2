"""`wastetune ui` as a person meets it: both pages in a browser, what is in the way, and that nothing stays behind."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import psutil
import pytest

from wastetune.storage.database import open_storage
from wastetune.storage.study import open_study

pytestmark = pytest.mark.slow

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, ran):
    """Where a study of three trials has run."""
    return shutil.copytree(ran, tmp_path_factory.mktemp("shown"), dirs_exist_ok=True)


class Shown:
    """A `wastetune ui` that answers."""

    def __init__(self, process):
        self.process, lines = process, []
        while not lines or not lines[-1].startswith("Ctrl-C"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            lines.append(line)
        self.said = "".join(lines)
        self.dashboard, self.mlflow = re.findall(r"http://\S+", self.said)[:2]
        self.children = psutil.Process(process.pid).children(recursive=True)

    def stop(self, number):
        self.process.send_signal(number)
        _, stderr = self.process.communicate(timeout=20)
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in self.children)
        return self.process.returncode, stderr


@pytest.fixture(scope="module")
def open_ui(start_in, folder):
    @contextmanager
    def opened(*arguments, **environment):
        process = start_in(folder, "ui", "--study", "tiny", *arguments, PYTHONUNBUFFERED="1", **environment)
        try:
            yield Shown(process)
        finally:
            process.terminate()
            process.communicate(timeout=20)

    return opened


@pytest.fixture(scope="module")
def ui(open_ui):
    with open_ui(fresh=True) as shown:
        yield shown


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 2400, "height": 1000})
    yield context.new_page()
    context.close()


def test_the_dashboard_shows_the_answer_and_the_winners_curve_and_confusions(ui, page):
    page.goto(ui.dashboard)
    page.get_by_text("Does the whole path work?").wait_for()
    page.get_by_role("link", name=re.compile(r"Trial \d")).click()
    page.get_by_text("Worst classes").wait_for()
    pictures = page.locator("img[src^='/artifacts/']")
    pictures.nth(1).wait_for()
    for name in ("learning curve", "confusion matrix"):
        picture = page.get_by_alt_text(name)
        page.wait_for_function("picture => picture.complete", arg=picture.element_handle())
        assert picture.evaluate("picture => picture.naturalWidth") > 100
    assert page.get_by_text("parameters trained").is_visible()
    page.goto(ui.dashboard.removesuffix("/note"))
    page.get_by_text("macro F1").first.wait_for()  # the metric's name, not "Objective 0"


def test_mlflow_shows_the_studys_runs_with_their_columns_and_the_champion(ui, page):
    page.goto(ui.mlflow)
    for name in ("tiny", "tiny final", "trial 0", "trial 1", "trial 2"):
        page.get_by_role("link", name=name, exact=True).wait_for()
    for column in ("best_score", "trainable_parameters", "learning_rate"):
        page.get_by_text(column, exact=True).first.wait_for()
    address = ui.mlflow.split("/#")[0]
    page.goto(f"{address}/#/models/wastetune-pictures")
    page.get_by_text("Version 1").wait_for()
    page.get_by_text("champion").first.wait_for()
    page.goto(f"{address}/#/models/wastetune-pictures/versions/1")
    page.get_by_role("link", name="tiny", exact=True).wait_for()  # the source run


def test_another_page_in_the_same_browser_cannot_ask_or_write(ui):
    address = ui.dashboard.split("/dashboard")[0]
    asked = f"{address}/api/studies"
    assert DIRECT.open(asked).status == 200
    port = address.rpartition(":")[2]
    for headers in ({"Host": f"evil.example:{port}"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            DIRECT.open(urllib.request.Request(asked, headers=headers))
        assert refused.value.code == 403
        refused.value.close()
    assert DIRECT.open(urllib.request.Request(asked, headers={"Origin": address})).status == 200


def test_an_mlflow_server_that_runs_already_is_used_and_ctrl_c_stops_the_rest(ui, open_ui):
    server = ui.mlflow.split("/#")[0]
    with open_ui("--tracking-uri", server) as second:
        assert second.mlflow == ui.mlflow
        assert not second.children
        assert second.stop(signal.SIGINT) == (0, "stopped\n")
    assert DIRECT.open(f"{server}/health").status == 200


CLEAN = """
import sys
import mlflow
import numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/wastetune-pictures@champion")
pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
made, again = model.predict(pixels), model.predict(pixels.astype("float32"))
assert not any(name.split(".")[0] == "wastetune" for name in sys.modules)
print(made.shape, np.allclose(made.sum(1), 1), np.allclose(made, again))
"""


def test_the_champion_loads_in_a_clean_process(ui, tmp_path):
    command = [sys.executable, "-c", CLEAN, ui.mlflow.split("/#")[0]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1:] == ["(2, 2) True True"], done.stderr


def test_a_second_sync_registers_nothing(folder, start_in):
    for _ in range(2):
        process = start_in(folder, "sync", "--study", "tiny")
        stdout, stderr = process.communicate(timeout=120)
        assert (process.returncode, stderr) == (0, "")
        assert stdout == "tiny: 3 trials in MLflow, 0 of them copied now, 0 wrong ones deleted\n"


def test_what_is_not_there_is_told_in_a_sentence(folder, start_in):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, reason in (
            (("--study", "none"), "there is no study 'none' in this database (there: tiny)"),
            (("--study", "tiny", "--tracking-uri", "sqlite:///nowhere.db"), "there is no MLflow store nowhere.db"),
            (("--study", "tiny", "--tracking-uri", f"http://127.0.0.1:{port + 1 if port < 65535 else 1}"), "answer at"),
            (("--study", "tiny", "--port", port), f"the dashboard cannot listen at 127.0.0.1:{port}"),
            (("--study", "tiny", "--mlflow-port", port), f"MLflow cannot listen at 127.0.0.1:{port}"),
            (("--study", "tiny", "--host", "192.0.2.1"), "cannot listen at 192.0.2.1"),
        ):
            process = start_in(folder, "ui", *arguments)
            stdout, stderr = process.communicate(timeout=60)
            assert (process.returncode, stdout) == (2, "")
            (line,) = (line for line in stderr.splitlines() if not line.startswith("warning: "))
            assert line.startswith("error: ")
            assert reason in line
            assert ("asks for a password" in stderr) == ("--host" in arguments)
    assert not (folder / "nowhere.db").exists()


def test_a_server_that_dies_ends_both_with_a_sentence(open_ui):
    with open_ui() as shown:
        for child in shown.children:
            child.kill()
        _, stderr = shown.process.communicate(timeout=20)
        assert shown.process.returncode == 2
        assert stderr.startswith("error: MLflow's server has ended by itself")


def test_sigterm_stops_all_and_passwords_stay_out_of_command_lines_and_output(postgres, open_ui):
    postgres.server.psql("CREATE ROLE looking LOGIN SUPERUSER PASSWORD 'p{a}%ss@w';")
    study, store = (postgres.new_database().replace("postgres:@", "looking:p{a}%25ss@w@") for _ in range(2))
    open_study(open_storage(study), "tiny", {})
    with open_ui(fresh=True, WASTETUNE_STORAGE=study, MLFLOW_TRACKING_URI=store) as shown:
        assert shown.children
        lines = [word for each in (shown.process, *shown.children) for word in psutil.Process(each.pid).cmdline()]
        assert "(MLflow has nothing of this study yet: wastetune sync --study tiny)" in shown.said
        status, stderr = shown.stop(signal.SIGTERM)
    assert (status, stderr) == (0, "stopped\n")
    assert not any("ss@w" in words or "p{a}" in words for words in (*lines, shown.said))
