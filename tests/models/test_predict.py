"""`wastetune predict`: lines, JSON and CSV for files, folders and globs, and nothing lost over a broken picture."""

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from wastetune.errors import UserError
from wastetune.evaluation.selective import Threshold
from wastetune.models.answers import ALWAYS, choose_rule
from wastetune.models.bundle import BundleDescription
from wastetune.models.predict import find_pictures


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, level in (("night.jpg", 0), ("more/noon.png", 255)):
        Image.new("RGB", (30, 20), (level, level, level)).save(folder / name)
    (folder / "torn.jpg").write_bytes((folder / "night.jpg").read_bytes()[:200])
    (folder / ".hidden.jpg").write_bytes(b"not looked at")
    return folder


def test_a_line_says_class_probability_picture_and_the_next_two(brightness, photos, run_cli):
    done = run_cli("predict", "--bundle", brightness, "photos/night.jpg", "photos/more/noon.png", fresh=True)
    assert (done.returncode, done.stderr) == (0, "")
    dark, bright = done.stdout.splitlines()
    assert dark == "dark     97.8%  photos/night.jpg  (grey 2.2%, bright 0.0%)"
    assert bright.startswith("bright   97.")


def test_a_broken_picture_has_its_own_line_and_the_rest_is_told(brightness, photos, run_cli):
    done = run_cli("predict", "--bundle", brightness, "photos", "nowhere.jpg")
    assert done.returncode == 1
    assert done.stderr == "2 of 4 could not be read\n"
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["bright", "dark", "-", "-"]
    assert "Cannot use photos/torn.jpg: broken: " in lines[2]
    assert "Cannot read nowhere.jpg: No such file or directory." in lines[3]


def test_json_has_an_object_a_line_with_all_probabilities(brightness, photos, run_cli):
    done = run_cli("predict", "--bundle", brightness, "--json", "photos/*.jpg")
    night, torn = map(json.loads, done.stdout.splitlines())
    assert (night["picture"], night["class"]) == ("photos/night.jpg", "dark")
    assert [each["class"] for each in night["top"]] == ["dark", "grey", "bright"]
    assert sum(night["probabilities"].values()) == pytest.approx(1)
    assert night["probability"] == night["top"][0]["probability"] == night["probabilities"]["dark"]
    assert set(torn) == {"picture", "problem"}


def test_csv_is_a_table_that_programs_read(brightness, photos, run_cli):
    (photos / "a, b.jpg").write_bytes((photos / "night.jpg").read_bytes())
    done = run_cli("predict", "--bundle", brightness, "--csv", "photos")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["picture"] for row in rows] == [
        f"photos/{name}" for name in ("a, b.jpg", "more/noon.png", "night.jpg", "torn.jpg")
    ]
    assert [row["class"] for row in rows] == ["dark", "bright", "dark", ""]
    assert [bool(row["problem"]) for row in rows] == [False, False, False, True]
    assert float(rows[1]["probability of bright"]) == pytest.approx(float(rows[1]["probability"]))


def test_a_folder_without_pictures_is_a_mistake(brightness, tmp_path, run_cli):
    (tmp_path / "empty").mkdir()
    done = run_cli("predict", "--bundle", brightness, "empty")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no picture in empty; name files, or a folder that holds some\n"


def test_paths_that_do_not_exist_are_told_before_a_model_is_loaded(photos):
    with pytest.raises(UserError, match=r"there is no file or folder nowhere\.jpg, none/x\.jpg; check the path"):
        find_pictures(["nowhere.jpg", Path("none/x.jpg")])
    here = next(path for path in sorted(photos.rglob("*")) if path.is_file())
    assert find_pictures(["nowhere.jpg", here]) == [Path("nowhere.jpg"), here]


def test_many_pictures_in_a_pipe_leave_the_lines_alone(brightness, photos, run_cli):
    for number in range(150):
        (photos / f"{number:03}.jpg").write_bytes((photos / "night.jpg").read_bytes())
    (photos / "torn.jpg").unlink()
    done = run_cli("predict", "--bundle", brightness, "photos")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 152
    assert done.stderr.startswith("predicting: 152 images")


def greys(folder, *levels):
    for level in levels:
        Image.new("RGB", (30, 20), (level, level, level)).save(folder / f"{level:03}.png")


def test_it_is_unsure_rather_than_wrong_too_often_and_names_a_set_that_holds_the_class(brightness, photos, run_cli):
    greys(photos, 127, 165)
    asked = ("predict", "--bundle", brightness, "--precision", "95", "--coverage", "90")
    done = run_cli(*asked, "photos/night.jpg", "photos/127.png", "photos/165.png", "photos/torn.jpg")
    night, middle, light, torn = done.stdout.splitlines()
    assert night == "dark     97.8%  photos/night.jpg  (grey 2.2%, bright 0.0%)  in {dark}"
    assert middle == "unsure   33.7%  photos/127.png  (bright 33.7%, grey 33.3%, dark 33.0%)  in {bright, grey, dark}"
    assert light == "unsure   70.6%  photos/165.png  (bright 70.6%, grey 22.3%, dark 7.1%)  in {bright, grey}"
    assert torn.startswith("-  ")

    rows = [json.loads(line) for line in run_cli(*asked, "--json", "photos/*.png").stdout.splitlines()]
    assert [(row["class"], row["set"]) for row in rows] == [
        ("unsure", ["bright", "grey", "dark"]),
        ("unsure", ["bright", "grey"]),
    ]
    assert all(row["probability"] == row["top"][0]["probability"] for row in rows)
    table = list(csv.DictReader(io.StringIO(run_cli(*asked, "--csv", "photos").stdout)))
    assert [row["class"] for row in table] == ["unsure", "unsure", "bright", "dark", ""]
    assert [row["set"] for row in table] == ["bright; grey; dark", "bright; grey", "bright", "dark", ""]
    assert table[-1]["problem"]
    assert table[-1]["probability of dark"] == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--precision", "99"), "this model does not promise a precision of 99 %; it can promise 95"),
        (("--coverage", "95"), "this model does not promise a coverage of 95 %; it can promise 90"),
    ],
)
def test_what_it_cannot_promise_is_said(brightness, photos, run_cli, options, said):
    done = run_cli("predict", "--bundle", brightness, *options, "photos")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {said}\n")


def test_a_model_of_an_earlier_version_promises_nothing_and_a_class_named_unsure_has_one_meaning():
    old = BundleDescription(classes=("a", "b"), input_size=8)
    assert choose_rule(old) == ALWAYS
    with pytest.raises(UserError, match="this model is of an earlier version, which promises no precision; run its"):
        choose_rule(old, precision=95)
    new = old.model_copy(update={"unlike_below": 0.8})
    with pytest.raises(UserError, match="promises no coverage: there were too few validation pictures"):
        choose_rule(new, coverage=95)
    threshold = Threshold(precision=0.95, confidence=0.5, coverage=1.0)
    with pytest.raises(UserError, match="is called 'unsure'"):
        choose_rule(new.model_copy(update={"classes": ("a", "unsure"), "thresholds": (threshold,)}), precision=95)


def test_a_picture_unlike_the_training_pictures_says_so(finished, tmp_path, run_cli):
    Image.new("RGB", (64, 64), (5, 5, 250)).save(tmp_path / "blue.png")
    Image.new("RGB", (64, 64), (180, 120, 120)).save(tmp_path / "red.png")
    asked = ("predict", "--bundle", finished / "results" / "colours" / "bundle", "blue.png", "red.png")
    blue, red = run_cli(*asked).stdout.splitlines()
    assert blue.endswith(")  unlike the training pictures")
    assert red.endswith("%)")
    blue, red = (json.loads(line) for line in run_cli(*asked, "--json").stdout.splitlines())
    assert (blue["unlike"], red["unlike"]) == (True, False)
    assert blue["likeness"] < 0.9 < red["likeness"] < 1.0001
    rows = list(csv.DictReader(io.StringIO(run_cli(*asked, "--csv").stdout)))
    assert [row["unlike"] for row in rows] == ["yes", ""]
