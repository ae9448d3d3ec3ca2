"""What write_whole promises: the old content or the new, never a part of it."""

import errno
import shutil
import subprocess

import numpy as np
import pytest

from wastetune.files import is_sound, open_csv, seal, write_whole


def test_a_failed_write_leaves_the_old_content_and_nothing_beside_it(tmp_path):
    file = tmp_path / "report.json"
    file.write_text("old")

    def fail(part):
        part.write_text("half of the n")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        write_whole(file, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert file.read_text() == "old"
    write_whole(file, lambda part: part.write_text("new"))
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert file.read_text() == "new"


def test_writers_at_the_same_time_have_hidden_names_of_their_own_with_the_suffix(tmp_path):
    file, parts = tmp_path / "model.keras", []

    def write_both(part):
        parts.append(part)
        write_whole(file, lambda other: (parts.append(other), other.write_text("second")))
        part.write_text("first")

    write_whole(file, write_both)
    assert len({part.name for part in parts}) == 2
    assert all(part.name.startswith(".") and part.suffix == ".keras" for part in parts)
    assert file.read_text() == "first"


def test_a_folder_is_complete_or_absent(tmp_path):
    folder = tmp_path / "pictures"

    def write(part, names):
        part.mkdir()
        for name in names:
            (part / name).write_text(name)
        if not names:
            raise ValueError("no names")

    with pytest.raises(ValueError, match="no names"):
        write_whole(folder, lambda part: write(part, []))
    assert not list(tmp_path.iterdir())
    write_whole(folder, lambda part: write(part, ["a", "b"]))
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    with pytest.raises(OSError, match="not empty"):
        write_whole(folder, lambda part: write(part, ["c"]))
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_the_next_writer_overwrites_what_a_killed_one_left_under_a_given_name(tmp_path):
    file, part = tmp_path / "pixels.npy", tmp_path / "pixels.part"
    part.write_text("left by a killed writer")
    write_whole(file, lambda given: given.write_text("whole"), part=part)
    assert [path.name for path in tmp_path.iterdir()] == ["pixels.npy"]
    assert file.read_text() == "whole"


@pytest.mark.parametrize("size", [0, 1, 700_000])
def test_a_sealed_file_is_sound_until_a_bit_a_length_or_its_name_changes(tmp_path, size):
    file, content = tmp_path / "part", bytes(range(256)) * (size // 256 + 1)
    content = content[:size]
    file.write_bytes(content)
    assert not is_sound(file, "a")
    seal(file, "a")
    sealed = file.read_bytes()
    assert sealed.startswith(content)
    assert is_sound(file, "a")
    assert not is_sound(file, "b")
    for place in {0, size // 2, size, len(sealed) - 1}:
        file.write_bytes(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :])
        assert not is_sound(file, "a")
    for damaged in (b"", sealed[:4], sealed[:-1], sealed + b"0", bytes(len(sealed)), sealed[1:]):
        file.write_bytes(damaged)
        assert not is_sound(file, "a")
    with pytest.raises(FileNotFoundError):
        is_sound(tmp_path / "nowhere", "a")


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounting = [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    try:
        subprocess.run(mounting, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_told_with_the_file_whatever_a_library_raises(small_disk):
    file = small_disk / "part.npy"

    def say_otherwise(part):
        with pytest.raises(OSError, match="No space left on device"):
            part.write_bytes(bytes(2 << 20))
        raise RuntimeError("the model could not be saved")

    # NumPy's own error has no number, and that of a plain write no path.
    for write in (
        lambda part: np.save(part, np.zeros(2 << 20, np.uint8)),
        lambda part: part.write_bytes(bytes(2 << 20)),
        say_otherwise,
    ):
        with pytest.raises(OSError, match="No space left on device") as raised:
            write_whole(file, write)
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(file))
        assert not list(small_disk.iterdir())
    write_whole(file, lambda part: part.write_bytes(bytes(1 << 19)))
    assert file.stat().st_size == 1 << 19


@pytest.mark.parametrize(
    "text", ["path,label,note\na.png,metal; tin,x\n", 'path;label;note\r\na.png;"metal; tin"; x\r\n']
)
def test_a_table_has_commas_or_the_semicolons_of_a_spreadsheet(text):
    assert list(open_csv(text)) == [{"path": "a.png", "label": "metal; tin", "note": "x"}]
