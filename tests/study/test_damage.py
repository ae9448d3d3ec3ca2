"""Damage to what is stored: noticed, mended, told once, and without an effect on the winner or the scores."""

import re
from collections import Counter

import numpy as np
import pytest

from wastetune.backbones.cuts import TOP
from wastetune.console import open_console
from wastetune.settings import CACHE
from wastetune.storage.database import open_storage
from wastetune.storage.records import read_attrs
from wastetune.storage.study import best_trial, open_study
from wastetune.study.refit import refit_again
from wastetune.training.config import TrialConfig
from wastetune.tuning.objective import fitting_set, plain_set
from wastetune.tuning.prepare import prepare_study
from wastetune.tuning.spec import load_study
from wastetune.tuning.workers.worker import run_worker

TRIALS = 3


def run(study_file, cache, database):
    """A new study on what a cache holds: the scores of each trial, the winner, what it predicts, and activations."""
    console = open_console()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE.variable, str(cache))
        prepared = prepare_study(load_study(str(study_file)), data=None, weights=None, console=console)
        study = open_study(open_storage(f"sqlite:///{database}"), "damaged", prepared.fingerprint)
        told = []
        run_worker(study, prepared.context, trials=TRIALS, timeout=None, bar=console.bar, on_trial=told.append)
        best = best_trial(study)
        again = refit_again(prepared.context, prepared.test, {0: read_attrs(best)}, repeat=1, bar=console.bar)
        config = TrialConfig(**{**read_attrs(best).config, "augmentation": 1.0})
        everything = fitting_set(prepared.context, config, console.bar).views
        sealed = plain_set(prepared.context, prepared.test, TOP, console.bar).activations
    activations = [each.take(np.arange(len(each))) for each in (*everything, sealed)]
    histories = [[epoch["score"] for epoch in trial.user_attrs["history"]] for trial in told]
    return histories, best.number, again[0], *activations


def damage(cache):
    """Damages all that is stored: the index, half of the pictures, and each file of activations in its way."""
    (index,) = cache.glob("index-*.sealed")
    index.write_bytes(index.read_bytes().replace(b'"look": "', b'"look": "0', 1))
    (pixels,) = cache.glob("pixels-*.npy")
    half = pixels.stat().st_size // 2
    pixels.write_bytes(pixels.read_bytes()[:half] + bytes(half))
    files = sorted((cache / "activations").glob("*/*/*.npy"))
    contents = [file.read_bytes() for file in files]
    for number, file in enumerate(files):
        if number % 3 == 0:
            rows = np.load(file, mmap_mode="r+")
            rows[...] = rows[::-1].copy()
        elif number % 3 == 1:
            file.write_bytes(contents[number][:-100])
        else:
            file.write_bytes(contents[number - 1])


def test_a_study_on_damaged_files_ends_as_on_whole_ones(tiny_heads, tmp_path, capsys):
    expected = run(tiny_heads, tmp_path / "cache", tmp_path / "first.db")
    capsys.readouterr()
    damage(tmp_path / "cache")
    found = run(tiny_heads, tmp_path / "cache", tmp_path / "second.db")
    assert found[:2] == expected[:2]
    for one, other in zip(found[2:], expected[2:], strict=True):
        np.testing.assert_array_equal(one, other)
    said = [line for line in capsys.readouterr().out.splitlines() if "damaged" in line]
    counts = Counter(re.sub(r".*(index|pictures in|activations).*damaged.*", r"\1", line) for line in said)
    assert counts == {"index": 1, "pictures in": 1, "activations": 5}  # two views of two sets, one of the test pictures
    assert run(tiny_heads, tmp_path / "cache", tmp_path / "third.db")[:2] == expected[:2]
    assert "damaged" not in capsys.readouterr().out
