"""`wastetune predict`: lines, JSON and CSV for files, folders and globs, and nothing lost over a broken picture."""

import csv
import io
import json

import pytest
from PIL import Image


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
    done = run_cli("predict", "--bundle", brightness, "photos/night.jpg", "photos/more/noon.png")
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


def test_many_pictures_in_a_pipe_leave_the_lines_alone(brightness, photos, run_cli):
    for number in range(150):
        (photos / f"{number:03}.jpg").write_bytes((photos / "night.jpg").read_bytes())
    (photos / "torn.jpg").unlink()
    done = run_cli("predict", "--bundle", brightness, "photos")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 152
    assert done.stderr.startswith("predicting: 152 images")
