"""The store: computed once, shared, complete or absent, bounded."""

import hashlib
import os
import signal
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock

import wastetune.backbones.activation_store
from support.own_backbones import save_onnx
from support.pictures import SIZE, draw_noise
from wastetune.backbones.activation_store import (
    CHUNK,
    Activations,
    _chunks,
    activation_bytes,
    fill_activations,
    missing_pictures,
    open_activations,
    open_store,
    pooled,
)
from wastetune.backbones.backbone import load_backbone, nearest_cut, split
from wastetune.backbones.cuts import TOP
from wastetune.errors import UserError
from wastetune.files import CHECKSUM_BYTES, PART_PREFIX, is_sound, seal

NAME = "mobilenet_v3_small_minimalistic"
OWN = {"name": "own.onnx", "preprocessing": "unit"}


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(NAME, "none", size=SIZE)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with a file that is a backbone; other processes open it in no time, and Keras would take seconds."""
    pytest.importorskip("tf2onnx", reason="needs pip install 'wastetune[onnx]'")
    folder = tmp_path_factory.mktemp("own")
    save_onnx(folder / OWN["name"], size=SIZE)
    return folder


@pytest.fixture(scope="module")
def own_backbone(own):
    return load_backbone(**OWN, near=own)


@pytest.fixture
def cuts(backbone):
    return [nearest_cut(backbone, 0.875), TOP]


def stored(store):
    return {path: path.stat().st_mtime_ns for path in store.folder.rglob("[!.]*.npy")}


def test_what_is_stored_is_what_the_trunk_makes(tmp_path):
    # Without training, MobileNet's activations are all but 0, the smallest that float16 has.
    backbone = load_backbone("resnet50", "none", size=SIZE)
    cuts = [nearest_cut(backbone, 0.875), TOP]
    store, pictures = open_store(tmp_path), draw_noise(CHUNK + 20)
    fill_activations(store, backbone, pictures, cuts, 0, 0.0)
    rows = np.array([0, 5, CHUNK - 1, CHUNK, CHUNK + 19])
    for cut in cuts:
        trunk, _ = split(backbone, cut)
        direct = np.asarray(trunk(np.stack([pictures.read(range(row, row + 1))[0] for row in rows]).astype(np.float32)))
        kept = open_activations(store, backbone, pictures, cut, 0, 0.0)
        assert len(kept) == len(pictures)
        np.testing.assert_allclose(kept.take(rows), direct, rtol=2e-3, atol=2e-3 * np.abs(direct).max())


def test_two_sets_can_be_read_as_one(tmp_path, backbone):
    store, pictures = open_store(tmp_path), draw_noise(CHUNK + 20)
    fill_activations(store, backbone, pictures, [TOP], 0, 0.0)
    one = open_activations(store, backbone, pictures, TOP, 0, 0.0)
    both = one + one
    assert len(both) == 2 * len(one)
    rows = np.array([3, CHUNK + 19])
    np.testing.assert_array_equal(both.take(rows + len(one)), one.take(rows))


def test_nothing_is_computed_twice(tmp_path, backbone, cuts):
    store, pictures, told = open_store(tmp_path), draw_noise(40), []
    fill_activations(store, backbone, pictures, cuts, 0, 0.0, told.append)
    before = stored(store)
    fill_activations(store, backbone, pictures, cuts, 0, 0.0, told.append)
    assert told == [40]
    assert stored(store) == before
    assert missing_pictures(store, backbone, pictures, cuts, 0, 0.0) == 0
    assert missing_pictures(store, backbone, pictures, cuts, 1, 0.5) == 40
    other = load_backbone(NAME, "none", size=SIZE)
    assert missing_pictures(store, other, pictures, cuts, 0, 0.0) == 0, "the same weights are the same trunk"


def test_views_of_other_magnitude_are_other_activations(tmp_path, backbone):
    store, pictures = open_store(tmp_path), draw_noise(8)
    for view, magnitude in ((0, 0.0), (1, 0.5), (1, 1.0)):
        fill_activations(store, backbone, pictures, [TOP], view, magnitude)
    plain, mild, strong = (
        open_activations(store, backbone, pictures, TOP, *view).take(np.arange(8))
        for view in ((0, 0.0), (1, 0.5), (1, 1.0))
    )
    assert not np.allclose(plain, mild)
    assert not np.allclose(mild, strong)


# `fill(count)` computes so many pictures slowly and says how many of them went through its own trunk.
SLOWLY = (
    f"""
OWN = {OWN}
"""
    + """
import hashlib, os, sys, time
import numpy as np
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from support.pictures import draw_noise
from wastetune.backbones.activation_store import fill_activations, open_activations, open_store
from wastetune.backbones.backbone import load_backbone
from wastetune.backbones.cuts import TOP
store, near = sys.argv[1:]
def fill(count, wait=lambda: None):
    pictures, taken = draw_noise(count), 0
    def read(rows):
        nonlocal taken
        taken += len(rows)
        time.sleep(0.1)
        return pictures.read(rows)
    slow, backbone = replace(pictures, read=read), load_backbone(**OWN, near=Path(near))
    wait()
    fill_activations(open_store(Path(store)), backbone, slow, [TOP], 0, 0.0)
    os.write(1, f"{taken}\\n".encode())
"""
)
ALONE = "fill(1024)"
LISTENING = """
wait = get_context("fork").Barrier(2).wait
child = os.fork()
pictures, backbone = draw_noise(512), load_backbone(**OWN, near=Path(near))
kept = open_store(Path(store), say=lambda sentence: os.write(1, b"told\\n"))
wait()
try:
    open_activations(kept, backbone, pictures, TOP, 0, 0.0)
except FileNotFoundError:
    fill_activations(kept, backbone, pictures, [TOP], 0, 0.0)
made = open_activations(kept, backbone, pictures, TOP, 0, 0.0).take(np.arange(512))
os.write(1, f"{hashlib.sha256(made).hexdigest()}\\n".encode())
if not child:
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""
TOGETHER = """
wait = get_context("fork").Barrier(2).wait
child = os.fork()
fill(1024, wait)
if not child:
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""


def test_a_kill_in_the_middle_leaves_whole_chunks_and_the_rest_is_done_later(tmp_path, own, own_backbone, start_python):
    store, pictures = open_store(tmp_path), draw_noise(1024)
    process = start_python(SLOWLY + ALONE, tmp_path, own)
    deadline = time.monotonic() + 120
    while not stored(store) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = stored(store)
    assert 0 < len(left) < 4, "the kill was meant to come in the middle"
    assert all(len(np.load(path)) == CHUNK for path in left)
    fill_activations(store, own_backbone, pictures, [TOP], 0, 0.0)
    assert len(open_activations(store, own_backbone, pictures, TOP, 0, 0.0)) == 1024
    after = stored(store)
    assert len(after) == 4
    assert all(np.load(path).shape == (CHUNK, 6) for path in after)


def damage(store, kind):
    """Damages a file of two, so that what it holds is wrong; None where it is in no way wrong."""
    (one, other) = sorted(stored(store))
    content = bytearray(one.read_bytes())
    if kind == "a bit":
        content[5000] ^= 1
    elif kind == "header":
        content[20] ^= 1
    elif kind == "zeros":
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    elif kind == "rows":
        begin, row = content.index(b"\n") + 1, 4 * 576
        content[begin : begin + 2 * row] = content[begin + row : begin + 2 * row] + content[begin : begin + row]
    elif kind == "cut":
        del content[len(content) // 2 :]
    elif kind == "of a version without checksums":
        del content[-CHECKSUM_BYTES:]
    else:
        content = other.read_bytes()
    one.write_bytes(content)


@pytest.mark.parametrize(
    "kind", ["a bit", "header", "zeros", "rows", "cut", "of a version without checksums", "another's"]
)
def test_a_damaged_file_is_noticed_deleted_and_told_once(tmp_path, backbone, kind):
    said = []
    store, pictures = open_store(tmp_path, say=said.append), draw_noise(2 * CHUNK)
    fill_activations(store, backbone, pictures, [TOP], 0, 0.0)
    rows = np.arange(len(pictures))
    expected = open_activations(store, backbone, pictures, TOP, 0, 0.0).take(rows)
    damage(store, kind)  # this process has opened it before
    with pytest.raises(FileNotFoundError):
        open_activations(store, backbone, pictures, TOP, 0, 0.0)
    assert missing_pictures(store, backbone, pictures, [TOP], 0, 0.0) == CHUNK
    fill_activations(store, backbone, pictures, [TOP], 0, 0.0)
    np.testing.assert_array_equal(open_activations(store, backbone, pictures, TOP, 0, 0.0).take(rows), expected)
    (sentence,) = said
    assert sentence.startswith("a file with activations was damaged and deleted, and will be computed again (")


def test_a_file_is_read_as_a_whole_once_in_a_process(tmp_path, backbone, monkeypatch):
    read = []

    def spy(path, name):
        read.append(path)
        return is_sound(path, name)

    monkeypatch.setattr(wastetune.backbones.activation_store, "is_sound", spy)
    store, pictures = open_store(tmp_path), draw_noise(CHUNK + 1)
    fill_activations(store, backbone, pictures, [TOP], 0, 0.0)
    for _ in range(3):
        open_activations(store, backbone, pictures, TOP, 0, 0.0)
    assert sorted(read) == sorted(stored(store))


@pytest.mark.parametrize("left", [0, 64, 200])
def test_a_file_that_is_cut_off_after_it_was_checked_is_computed_again(tmp_path, backbone, monkeypatch, left):
    store, pictures = open_store(tmp_path), draw_noise(8)
    fill_activations(store, backbone, pictures, [TOP], 0, 0.0)
    whole = open_activations(store, backbone, pictures, TOP, 0, 0.0).take(np.arange(8)).copy()

    def cut_off(path, name):
        os.truncate(path, left)
        return True

    with monkeypatch.context() as patched:
        patched.setattr(wastetune.backbones.activation_store, "is_sound", cut_off)
        with pytest.raises(FileNotFoundError):
            open_activations(open_store(tmp_path), backbone, pictures, TOP, 0, 0.0)
    fill_activations(store, backbone, pictures, [TOP], 0, 0.0)
    again = open_activations(store, backbone, pictures, TOP, 0, 0.0)
    np.testing.assert_array_equal(again.take(np.arange(8)), whole)


@pytest.mark.skipif(sys.platform != "linux", reason="stands in for flock")
@pytest.mark.parametrize("locks", ["granted to all", "none"])
def test_where_locks_do_nothing_a_part_is_computed_twice_and_whole(tmp_path, own, own_backbone, start_python, locks):
    flock = {"granted to all": "lambda *_: None", "none": "refuse"}[locks]
    refuse = "import errno, fcntl\ndef refuse(*_):\n    raise OSError(errno.ENOLCK, 'No locks available')\n"
    start = f"{refuse}fcntl.flock = {flock}\n"
    process = start_python(start + SLOWLY + TOGETHER.replace("1024", "300"), tmp_path / "both", own)
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    taken = [int(line) for line in stdout.splitlines()]
    assert max(taken) <= 300
    assert sum(taken) > 300, "they were meant to meet"
    store, pictures, rows = open_store(tmp_path / "both"), draw_noise(300), np.arange(300)
    alone = open_store(tmp_path / "alone")
    fill_activations(alone, own_backbone, pictures, [TOP], 0, 0.0)
    both, one = (open_activations(each, own_backbone, pictures, TOP, 0, 0.0).take(rows) for each in (store, alone))
    np.testing.assert_array_equal(both, one)
    assert not list(tmp_path.rglob(f"{PART_PREFIX}*"))


def test_a_file_that_looks_left_over_to_another_clock_is_written_again(tmp_path, backbone, monkeypatch):
    module, lost = wastetune.backbones.activation_store, []

    def lose_first(path, name):
        if not lost:
            lost.append(path)
            path.unlink()
        seal(path, name)

    monkeypatch.setattr(module, "seal", lose_first)
    store, pictures = open_store(tmp_path), draw_noise(8)
    fill_activations(store, backbone, pictures, [TOP], 0, 0.0)
    assert lost
    assert len(open_activations(store, backbone, pictures, TOP, 0, 0.0)) == 8


def test_two_processes_share_the_work(tmp_path, own, start_python):
    process = start_python(SLOWLY + TOGETHER, tmp_path, own)
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    taken = [int(line) for line in stdout.splitlines()]
    assert len(taken) == 2
    assert sum(taken) == 1024, "each picture goes through one trunk"
    assert min(taken) > 0, "nobody waits for the other"
    assert len(stored(open_store(tmp_path))) == 4
    assert not list(tmp_path.rglob(f"{PART_PREFIX}*"))


def test_of_two_processes_that_find_damage_one_tells_and_both_have_what_they_need(
    tmp_path, own, own_backbone, start_python
):
    store, pictures = open_store(tmp_path), draw_noise(2 * CHUNK)
    fill_activations(store, own_backbone, pictures, [TOP], 0, 0.0)
    expected = open_activations(store, own_backbone, pictures, TOP, 0, 0.0).take(np.arange(len(pictures)))
    damage(store, "zeros")
    process = start_python(SLOWLY + LISTENING, tmp_path, own)
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert sorted(stdout.split()) == sorted([*[hashlib.sha256(expected).hexdigest()] * 2, "told"])


def test_the_store_keeps_to_its_limit_and_forgets_what_was_used_longest_ago(tmp_path, backbone):
    one = activation_bytes(backbone, TOP, 100)
    store = open_store(tmp_path, limit=int(2.5 * one))
    pictures = draw_noise(100)
    for view in (1, 2):
        fill_activations(store, backbone, pictures, [TOP], view, 0.5)
    for age, path in enumerate(stored(store)):
        os.utime(path, (time.time() - 1000 + age, time.time() - 1000 + age))
    open_activations(store, backbone, pictures, TOP, 1, 0.5)  # used just now
    fill_activations(store, backbone, pictures, [TOP], 3, 0.5)
    assert missing_pictures(store, backbone, pictures, [TOP], 1, 0.5) == 0
    assert missing_pictures(store, backbone, pictures, [TOP], 2, 0.5) == 100
    assert sum(path.stat().st_size for path in stored(store)) <= store.limit


def test_rows_can_be_selected_and_pooled_without_reading_the_rest():
    chunks = tuple(np.arange(24.0).reshape(2, 2, 2, 3) + 100 * number for number in range(3))
    stored = Activations(chunks)
    some = stored.select(np.array([5, 0, 3])).select(np.array([2, 0]))
    everything = np.concatenate(chunks)
    assert len(some) == 2
    np.testing.assert_array_equal(some.take(np.array([1, 0])), everything[[5, 3]])
    np.testing.assert_allclose(pooled(some), everything[[3, 5]].mean(axis=(1, 2)))
    np.testing.assert_allclose(pooled(stored, at_once=4), everything.mean(axis=(1, 2)))
    with pytest.raises(ValueError, match="joined before"):
        some + stored


def test_what_cannot_fit_is_said_before_the_work(tmp_path, backbone):
    store = open_store(tmp_path, limit=1000)
    with pytest.raises(UserError, match="WASTETUNE_CACHE_GB"):
        fill_activations(store, backbone, draw_noise(10), [TOP], 0, 0.0)


def test_a_part_in_the_hands_of_a_paused_process_is_computed_after_a_while(tmp_path, backbone, monkeypatch):
    monkeypatch.setattr("wastetune.backbones.activation_store._LOCK_TIMEOUT", 0.2)
    store, pictures = open_store(tmp_path), draw_noise(CHUNK + 1)
    locked = []

    def lock_first(rows):  # while the first part is read, somebody takes the second and falls asleep
        if not locked:
            (_, second) = _chunks(store, backbone, pictures, 0, 0.0)
            locked.append(FileLock(second.lock))
            locked[0].acquire()
        return pictures.read(rows)

    held = replace(pictures, read=lock_first)
    fill_activations(store, backbone, held, [TOP], 0, 0.0)
    assert len(open_activations(store, backbone, pictures, TOP, 0, 0.0)) == CHUNK + 1
    locked[0].release()
