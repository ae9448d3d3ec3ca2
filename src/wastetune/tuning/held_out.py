"""Predictions of the validation pictures by trials that trained a part of the backbone, kept on disk.

To be selected and calibrated, the final model's members are fitted on the training pictures for their whole schedule.
A trial that was not stopped early has done exactly that, and for a tail it took minutes. So its last predictions are
kept, in a file named by the hash of all that they depend on. Where there is none, it is fitted again.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from wastetune.files import is_sound, seal, write_whole
from wastetune.training.config import TrialConfig
from wastetune.training.learner import FloatArray
from wastetune.tuning.prepare import TrialContext
from wastetune.tuning.recipes import RECIPES

_FOLDER = "held_out"  # in that of the activations


def keep_held_out(context: TrialContext, config: TrialConfig, seed: int, probabilities: FloatArray) -> None:
    """Keeps the probabilities (n, classes) of the validation pictures after a trial's whole schedule."""
    path = _path(context, config, seed)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(part: Path) -> None:
        np.save(part, probabilities)
        seal(part, path.name)

    write_whole(path, write)


def read_held_out(context: TrialContext, config: TrialConfig, seed: int) -> FloatArray | None:
    """What was kept of this configuration, trained with this seed; None where nothing sound is there."""
    path = _path(context, config, seed)
    try:
        if not is_sound(path, path.name):
            return None
        found: FloatArray = np.load(path)
    except FileNotFoundError:
        return None
    return found


def _path(context: TrialContext, config: TrialConfig, seed: int) -> Path:
    """Named by the pictures and their labels, the backbone's weights, the configuration, the seed and the recipes."""
    train, val, backbone = context.data.train, context.data.val, context.backbone
    depends = {
        "backbone": [backbone.name, backbone.digest, backbone.size],
        "config": config.model_dump(),
        "seed": seed,
        "views": context.spec.views,
        "recipes": RECIPES,
        "pictures": [[*each.keys, *map(int, each.labels)] for each in (train, val)],
        "classes": context.classes,
    }
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    return context.store.folder / _FOLDER / f"{digest[:32]}.npy"
