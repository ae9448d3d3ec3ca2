"""Pictures that change while a study lives: noticed before a trial is spent, told by name."""

import shutil
import time

import pytest
from PIL import Image

from support.studies import HEADS, write_study
from wastetune.console import open_console
from wastetune.data.index import index_folder
from wastetune.errors import UserError
from wastetune.storage.database import open_storage
from wastetune.storage.study import open_study
from wastetune.tuning.pictures import folder_stamp, pictures_of, render_changes, seldom, watch_pictures
from wastetune.tuning.prepare import prepare_study
from wastetune.tuning.spec import load_study
from wastetune.tuning.workers.worker import run_worker


@pytest.fixture
def folder(pictures, tmp_path):
    """A copy of the drawn pictures, which may be changed."""
    return shutil.copytree(pictures, tmp_path / "mine")


def replace_one(folder):
    Image.new("RGB", (48, 48), "red").save(folder / "box" / "box003.jpg")
    return "box/box003.jpg was replaced"


def delete_one(folder):
    (folder / "leaf" / "leaf004.jpg").unlink()
    return "leaf/leaf004.jpg is gone"


def rename_one(folder):
    (folder / "leaf" / "leaf004.jpg").rename(folder / "leaf" / "other.jpg")
    return "leaf/leaf004.jpg is now leaf/other.jpg"


def add_one(folder):
    Image.new("RGB", (48, 48), "red").save(folder / "box" / "more.png")
    return "box/more.png is new"


def touch_one(folder):
    (folder / "box" / "box003.jpg").touch()


def add_text(folder):
    (folder / "box" / "notes.txt").write_text("no picture")


@pytest.mark.parametrize("change", [replace_one, delete_one, rename_one, add_one, touch_one, add_text])
def test_a_change_of_pictures_is_told_by_name_and_no_other(folder, tmp_path, change):
    stamp = folder_stamp(folder)
    check = watch_pictures(index_folder(folder, cache=tmp_path), stamp, tmp_path, print)
    check()
    if told := change(folder):
        with pytest.raises(UserError, match=f"have changed since this run began: {told}; put them back"):
            check()
    else:
        assert folder_stamp(folder) != stamp
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="does not exist"):
        check()


def test_links_that_lead_nowhere_or_in_a_circle_do_no_harm(folder):
    (folder / "box" / "nowhere.jpg").symlink_to(folder / "nowhere")
    (folder / "box" / "circle").symlink_to(folder)
    assert folder_stamp(folder) == folder_stamp(folder)


def test_many_changes_are_counted(folder):
    then = pictures_of(index_folder(folder))
    assert render_changes(then, then) == ""
    for path in sorted((folder / "leaf").iterdir())[:9]:
        path.unlink()
    (folder / "box" / "box003.jpg").rename(folder / "leaf" / "box003.jpg")
    said = render_changes(then, pictures_of(index_folder(folder)))
    assert said.startswith("box/box003.jpg is now leaf/box003.jpg, leaf/")
    assert said.endswith("and 4 more")
    assert render_changes({"a.jpg": ("box", "x")}, {"a.jpg": ("leaf", "x")}) == "a.jpg was box and is now leaf"


def test_looking_takes_at_most_a_hundredth_of_the_time():
    looked = []

    def look():
        looked.append(time.monotonic())
        time.sleep(0.005)

    check, ends = seldom(look), time.monotonic() + 1.2
    while time.monotonic() < ends:
        check()
    assert 2 <= len(looked) <= 3


def test_a_running_study_ends_before_the_next_trial(folder, tmp_path):
    study_file = write_study(tmp_path, folder, HEADS)
    console = open_console()
    prepared = prepare_study(load_study(str(study_file)), data=None, weights=None, console=console)
    study = open_study(open_storage(f"sqlite:///{tmp_path / 'study.db'}"), "mine", {"data": "d1"})

    def run():
        run_worker(
            study,
            prepared.context,
            trials=2,
            timeout=None,
            bar=console.bar,
            on_trial=lambda trial: trial.number or delete_one(folder),
            before_trial=prepared.check_pictures,
        )

    with pytest.raises(UserError, match=r"leaf/leaf004\.jpg is gone"):
        run()
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]


@pytest.mark.slow
def test_a_resumed_study_names_them_and_goes_on_when_they_are_back(folder, tmp_path, run_cli):
    write_study(tmp_path, folder, HEADS)
    command = ("run", "--study", "tiny.toml", "--no-retrain", "--trials")
    assert run_cli(*command, 1).returncode == 0
    shutil.copy(folder / "leaf" / "leaf004.jpg", tmp_path / "kept.jpg")
    delete_one(folder)
    refused = run_cli(*command, 2)
    assert refused.returncode == 2
    assert "leaf/leaf004.jpg is gone" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    shutil.copy(tmp_path / "kept.jpg", folder / "leaf" / "leaf004.jpg")
    again = run_cli(*command, 2)
    assert again.returncode == 0, again.stderr
    assert "1 of 2 trials are finished" in again.stdout
