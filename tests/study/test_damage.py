"""Damage to what is stored: noticed, mended, told once, and without an effect on the winner or the scores."""

import re
import shutil

import numpy as np
import pytest

from wastetune.console import open_console
from wastetune.settings import CACHE
from wastetune.storage.database import open_storage
from wastetune.storage.study import best_trial, open_study
from wastetune.study.final import refit_winner
from wastetune.tuning.prepare import prepare_study
from wastetune.tuning.spec import load_study
from wastetune.tuning.worker import run_worker

pytestmark = pytest.mark.slow
TRIALS = 3


def run(tiny_heads, cache, results):
    """A new study on what a cache holds: each trial's score, the winner, and the probabilities of the test pictures."""
    console = open_console()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE.variable, str(cache))
        prepared = prepare_study(load_study(str(tiny_heads)), data=None, weights=None, console=console)
        results.mkdir()
        study = open_study(open_storage(f"sqlite:///{results / 'study.db'}"), "damaged", prepared.fingerprint)
        told = []
        run_worker(study, prepared.context, trials=TRIALS, timeout=None, bar=console.bar, on_trial=told.append)
        refitted = refit_winner(study, prepared, results, console)
    histories = [[epoch["score"] for epoch in trial.user_attrs["history"]] for trial in told]
    return histories, best_trial(study).number, refitted.evaluation.final.members, refitted.predictions.probabilities


@pytest.fixture(scope="module")
def undamaged(tiny_heads, tmp_path_factory):
    """The cache of a study, and its results."""
    cache = tmp_path_factory.mktemp("undamaged") / "cache"
    return cache, run(tiny_heads, cache, cache.parent / "results")


def zeroed_from(path, share):
    """Overwrites the end of a file with zeros, as a power cut leaves it."""
    start = int(path.stat().st_size * share)
    with path.open("rb+") as file:
        file.seek(start)
        file.write(bytes(path.stat().st_size - start))


def damage_pixels(cache):
    shutil.rmtree(cache / "activations")
    (pixels,) = cache.glob("pixels-*.npy")
    zeroed_from(pixels, 0.5)
    return r"\d+ of the 42 pictures in .* were damaged: they were decoded again"


def damage_index(cache):
    (index,) = cache.glob("index-*.sealed")
    index.write_bytes(index.read_bytes().replace(b'"look": "', b'"look": "0', 1))
    return r"the stored index of .* was damaged .*: all its pictures are read again"


def damage_activations(cache):
    """Rows are exchanged in one file, another is cut, and a third takes the place of a fourth."""
    files = sorted((cache / "activations").glob("*/*/*.npy"))
    exchanged, cut, one, other = files[:4]
    rows = np.load(exchanged, mmap_mode="r+")
    rows[...] = rows[::-1].copy()
    rows.flush()
    cut.write_bytes(cut.read_bytes()[:-100])
    shutil.copyfile(one, other)
    return r"3 files with activations were damaged and deleted, and will be computed again"


@pytest.mark.parametrize("damage", [damage_pixels, damage_index, damage_activations])
def test_a_study_on_damaged_files_ends_as_on_whole_ones(damage, undamaged, tiny_heads, tmp_path, capsys):
    cache, expected = undamaged
    shutil.copytree(cache, tmp_path / "cache")
    said = damage(tmp_path / "cache")
    histories, best, members, probabilities = run(tiny_heads, tmp_path / "cache", tmp_path / "results")
    assert (histories, best, members) == expected[:3]
    np.testing.assert_array_equal(probabilities, expected[3])
    assert len(re.findall(said, capsys.readouterr().out)) == 1
