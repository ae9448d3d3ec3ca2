"""`wastetune app` as a person meets it: a real server, a real browser, on a screen and on a phone."""

import io
import os
import re
import shutil
import signal
import socket
from base64 import b64decode
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from support.browser import complaints
from wastetune.data.image import read_picture, resize_picture
from wastetune.models.loading import open_model
from wastetune.models.predict import PROBABILITY

pytestmark = pytest.mark.slow

pytest.importorskip("streamlit", reason="the app needs pip install 'wastetune[app]'")

WAIT = 60_000  # milliseconds, on a slow machine


class Shown:
    """A `wastetune app` that answers."""

    def __init__(self, process):
        self.process = process
        line = process.stdout.readline()
        assert line, process.stderr.read()
        self.url = re.search(r"http://\S+", line)[0]

    def stop(self, number):
        self.process.send_signal(number)
        stdout, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stdout, stderr


@pytest.fixture(scope="module")
def open_app(start_in, finished):
    @contextmanager
    def opened(*arguments, study="colours", folder=finished, fresh=False):
        process = start_in(folder, "app", "--study", study, *arguments, fresh=fresh, PYTHONUNBUFFERED="1")
        try:
            yield Shown(process)
        finally:
            process.kill()
            process.communicate()

    return opened


@pytest.fixture(scope="module")
def app(open_app):
    with open_app(fresh=True) as shown:
        yield shown


@pytest.fixture(scope="module")
def tab(browser):
    """One tab for all tests: it keeps Streamlit's megabytes of scripts, and each visit is a session of its own."""
    context = browser.new_context()
    tab = context.new_page()
    tab.set_default_timeout(WAIT)
    yield tab
    context.close()


@pytest.fixture
def open_page(tab, app):
    """A page of the app in a window of this size and colour; nothing on it may ask anybody else for anything."""
    asked, own = [], ["data:", "blob:", "about:blank"]

    def note(request):
        asked.append(request.url)

    def opened(width=1400, height=1000, scheme="light", path="/", url=app.url):
        own.append(url)
        tab.set_viewport_size({"width": width, "height": height})
        tab.emulate_media(color_scheme=scheme)
        tab.goto(url + path)
        return tab

    tab.on("request", note)
    yield opened
    tab.goto("about:blank")
    tab.remove_listener("request", note)
    assert asked
    assert [url for url in asked if not url.startswith(tuple(own))] == []


@pytest.fixture
def photo(tmp_path):
    """A photo, wider than high, of something red on its left."""
    picture = Image.new("RGB", (300, 200), (140, 140, 140))
    picture.paste((165, 130, 140), (0, 40, 100, 160))
    picture.save(tmp_path / "photo.jpg", quality=95)
    return tmp_path / "photo.jpg"


def give(page, file):
    page.wait_for_function("document.querySelectorAll('input[type=file]').length == 1")  # an old one goes with a run
    page.locator("input[type=file]").set_input_files(file)


def shown_picture(page, alt):
    """A picture on the page, as an array."""
    address = page.get_by_alt_text(alt).get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(b64decode(address.partition(",")[2]))), np.float32)


def test_a_photo_is_named_as_the_model_names_it_with_all_classes(open_page, finished, photo):
    page = open_page()
    give(page, photo)
    page.locator(".wt-answer").wait_for()
    model = open_model(finished / "results" / "colours" / "bundle")
    said = model.run(resize_picture(read_picture(photo), model.size)[None])[0]
    shares = {name: f"{100 * share:.1f}\N{NO-BREAK SPACE}%" for name, share in zip(model.classes, said, strict=True)}
    assert list(shares) == ["bottle", "leaf"]
    assert 0.6 < said[1] < 0.99  # so that a wrong figure would be seen
    assert page.locator(".wt-said").inner_text().split("\n") == ["leaf", shares["leaf"]]
    rows = page.locator(".wt-bars").get_by_role("listitem")
    assert [row.split("\n") for row in rows.all_inner_texts()] == [
        ["leaf", shares["leaf"]],
        ["bottle", shares["bottle"]],
    ]
    widths = rows.locator("i").evaluate_all("bars => bars.map(bar => bar.clientWidth / bar.parentElement.clientWidth)")
    assert widths == pytest.approx([said[1], said[0]], abs=0.02)
    assert page.title() == "colours: what is on the photo?"


def test_asked_to_be_right_more_often_it_is_unsure_and_says_what_it_lacks(open_page, tmp_path):
    Image.new("RGB", (64, 64), (141, 140, 140)).save(tmp_path / "pale.png")
    page = open_page()
    give(page, tmp_path / "pale.png")
    page.locator(".wt-name", has_text="leaf").wait_for()
    page.get_by_role("combobox", name="When should it answer?").click()
    page.get_by_role("option", name="Right 95 % of the time").click()
    page.locator(".wt-name", has_text="unsure").wait_for()
    said = page.locator(".wt-trust").inner_text()
    assert re.search(r"It would say leaf, and is only \d\d\.\d.% sure; .* 90\.0.% sure", said)


def test_a_photo_that_is_unlike_its_training_pictures_is_told(open_page, photo, tmp_path):
    Image.new("RGB", (64, 64), (5, 5, 250)).save(tmp_path / "blue.png")
    page = open_page()
    give(page, photo)
    page.locator(".wt-answer").wait_for()
    assert page.locator(".wt-unlike").count() == 0
    give(page, tmp_path / "blue.png")
    page.locator(".wt-unlike", has_text="it may show none of its classes").wait_for()


def test_it_shows_where_it_looked_on_the_photo_as_it_is(open_page, photo):
    page = open_page()
    give(page, photo)
    page.locator(".wt-answer").wait_for()
    whole, heat = shown_picture(page, re.compile("^the photo")), shown_picture(page, re.compile("where it looked"))
    assert whole.shape == heat.shape == (200, 300, 3)
    colour = np.ptp(heat, axis=2)  # the photo below it is grey
    assert colour[60:140, 10:90].min() > 3 * colour[:, 150:].max()


def test_it_shows_the_training_pictures_that_are_most_like_it(open_page, finished, photo):
    page = open_page()
    give(page, photo)
    page.locator(".wt-similar").wait_for()
    figures = page.locator(".wt-alike figure")
    rows = [text.split() for text in figures.all_inner_texts()]
    names, likeness = [row[0] for row in rows], [float(row[1]) for row in rows]
    assert len(rows) == 6
    assert likeness == sorted(likeness, reverse=True)
    page.get_by_text(f"{names.count('leaf')} of 6 are leaf.").wait_for()
    pictures = figures.get_by_role("img")
    assert pictures.evaluate_all("all => all.every(each => each.complete && each.naturalWidth > 0)")
    page.get_by_text("trained on this very picture").wait_for(state="hidden")
    lines = (finished / "results" / "colours" / "split.csv").read_text(encoding="utf-8").splitlines()
    for side in ("train", "val"):  # retraining takes both
        learnt = next(line.split(",")[0] for line in lines if line.endswith(f",{side}"))
        give(page, finished / "data" / "drawn" / learnt)
        page.get_by_text("It was trained on this very picture").wait_for()
        give(page, photo)
        page.get_by_text("It was trained on this very picture").wait_for(state="detached")
        page.get_by_text(f"{names.count('leaf')} of 6 are leaf.").wait_for()  # the page is whole before the next one


def test_a_bad_file_is_told_in_a_sentence_and_the_next_one_is_taken(open_page, photo, tmp_path):
    page = open_page()
    torn, drawing, huge, empty = (tmp_path / name for name in ("torn.jpg", "drawing.svg", "huge.png", "empty.jpg"))
    torn.write_bytes(photo.read_bytes()[:700])
    drawing.write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    Image.new("1", (10_000, 9_000)).save(huge)
    empty.touch()
    for file, reason in (
        (torn, "broken: "),
        (drawing, "not a picture Pillow can read"),
        (huge, "more than 80 million pixels"),
        (empty, "empty file"),
    ):
        give(page, file)
        page.get_by_text(f"This file cannot be used: {reason}").wait_for()
        page.locator(".wt-answer").wait_for(state="hidden")
    give(page, photo)
    page.locator(".wt-answer").wait_for()
    page.get_by_text("cannot be used").wait_for(state="hidden")


def test_a_test_picture_can_be_tried_and_its_class_is_told(open_page, finished, photo):
    page = open_page()
    give(page, photo)
    page.locator(".wt-answer").wait_for()
    page.get_by_role("button", name="test picture 1").click()
    page.locator(".wt-truth").wait_for()
    assert page.locator(".wt-truth").inner_text() == "Right: it is a test picture of bottle."
    assert page.locator(".wt-name").inner_text() == "bottle"
    lines = (finished / "results" / "colours" / "predictions.csv").read_text(encoding="utf-8").splitlines()
    column = lines[0].split(",").index(f"{PROBABILITY}bottle")
    shares = {f"{100 * float(line.split(',')[column]):.1f}\N{NO-BREAK SPACE}%" for line in lines[1:]}
    assert page.locator(".wt-share").inner_text() in shares
    give(page, photo)  # what came last is shown
    page.locator(".wt-truth").wait_for(state="detached")
    assert page.locator(".wt-name").inner_text() == "leaf"


def test_the_camera_is_asked_for_when_it_is_wanted(open_page):
    page = open_page()
    page.get_by_text("Or try a test picture").wait_for()
    asked = "[data-testid=stCameraInput]"
    assert page.locator(asked).count() == 0
    page.get_by_text("Use the camera").click()
    page.locator(asked).wait_for()
    page.locator("input[type=file]").wait_for(state="detached")


def test_the_second_page_is_the_studys_report_and_its_links_lead_to_its_places(open_page):
    page = open_page()
    page.get_by_role("link", name="The study", exact=True).click()
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="Confusion matrix").wait_for()
    report.get_by_role("link", name="Confusion matrix").click()
    (frame,) = page.frames[1:]
    frame.wait_for_function("scrollY > 100")
    assert frame.url.endswith("/report.html#confusion")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(open_page, photo, scheme):
    page = open_page(400, 860, scheme)
    give(page, photo)
    page.locator(".wt-similar").wait_for()
    fits = "[...document.querySelectorAll('.stMain, html')].every(each => each.scrollWidth <= innerWidth)"
    assert page.evaluate(fits)
    shade = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor.match(/\\d+/)[0]")
    assert (int(shade) > 128) == (scheme == "light")
    page.get_by_role("link", name="The study's report").click()
    page.frame_locator("iframe").get_by_role("heading", name="Confusion matrix").wait_for()
    assert page.evaluate(fits)
    assert page.frames[1].evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_without_the_pictures_it_answers_and_says_what_is_missing_and_ctrl_c_ends_it(open_app, open_page, photo):
    with open_app("--data", "nowhere") as shown:
        page = open_page(url=shown.url)
        give(page, photo)
        page.locator(".wt-answer").wait_for()
        page.get_by_text("No training pictures to compare with: ").wait_for()
        page.get_by_text("Or try a test picture").wait_for(state="hidden")
        status, stdout, stderr = shown.stop(signal.SIGINT)
    assert (status, stdout, stderr) == (0, "", "stopped\n")


def test_the_pictures_are_those_that_the_studys_file_names(open_app, open_page, finished, tmp_path):
    shutil.copytree(finished / "results", tmp_path / "results")
    shutil.copytree(finished / "data" / "drawn", tmp_path / "my" / "photos")
    lines = ('dataset = "my/photos"', 'backbone = "mobilenet_v3_small"', 'space = "head"', "trials = 1")
    (tmp_path / "colours.toml").write_text("# Which is which?\n" + "\n".join(lines))
    with open_app(study="colours.toml", folder=tmp_path) as shown:
        open_page(url=shown.url).get_by_text("Or try a test picture").wait_for()


def test_what_is_not_there_is_told_in_a_sentence(finished, start_in, tmp_path):
    broken = tmp_path / "broken" / "results" / "colours"
    shutil.copytree(finished / "results" / "colours", broken)
    (broken / "bundle" / "model.keras").write_bytes(b"not a model")
    damaged = tmp_path / "damaged" / "results" / "colours"
    shutil.copytree(finished / "results" / "colours", damaged)
    (damaged / "bundle" / "bundle.json").write_text("{")
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "streamlit.py").write_text("raise ModuleNotFoundError(\"No module named 'streamlit'\")")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for folder, arguments, environment, reason in (
            (finished, ("--study", "none"), {}, "study 'none' has no model in results/none; run it first"),
            (broken.parents[1], ("--study", "colours"), {}, "the model in results/colours/bundle cannot be read: "),
            (damaged.parents[1], ("--study", "colours"), {}, "results/colours/bundle/bundle.json is damaged"),
            (finished, ("--study", "colours", "--port", port), {}, f"cannot listen at 127.0.0.1 port {port}"),
            (finished, ("--study", "colours"), {"PYTHONPATH": absent}, "pip install 'wastetune[app]'"),
        ):
            process = start_in(folder, "app", *arguments, **{key: prepend(value) for key, value in environment.items()})
            stdout, stderr = process.communicate(timeout=120)
            assert (process.returncode, stdout) == (2, "")
            (line,) = stderr.splitlines()
            assert line.startswith("error: ")
            assert reason in line


def prepend(folder):
    """A path of modules in which this folder comes first."""
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_use_it(open_page, photo, scheme):
    page = open_page(scheme=scheme)
    give(page, photo)
    page.locator(".wt-similar").wait_for()
    # Streamlit's own drop zone has a role and a label that contradict each other.
    assert [each for each in complaints(page) if "stFileUploaderDropzone" not in each] == []
