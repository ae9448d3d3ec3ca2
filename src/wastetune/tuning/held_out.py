"""What a trial that trained a part of the backbone leaves on disk, in files named by the hash of all it depends on.

To be selected and calibrated, the final model's members are fitted on the training pictures for their whole schedule.
A trial that was not stopped early has done exactly that, and for a tail it took minutes. So its last predictions of the
validation pictures are kept. So are the weights of the best trials of the whole network, with which its fit on all
pictures begins. Where there is no such file, the trial is fitted again.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wastetune.backbones.backbone import nearest_cut
from wastetune.backbones.cuts import PIXELS, TOP
from wastetune.files import is_sound, seal, write_whole
from wastetune.training.config import TrialConfig
from wastetune.training.learner import FloatArray, get_weights
from wastetune.tuning.prepare import TrialContext
from wastetune.tuning.recipes import RECIPES

_FOLDER = "held_out"  # in that of the activations
_WEIGHTS = "weights"  # in that folder, with one for each question
_MOST = 3  # networks of each question: the winner is among them also where limits of costs exclude a better one


def keep_fit(
    context: TrialContext, config: TrialConfig, seed: int, score: float, probabilities: FloatArray, model: Any
) -> None:
    """Keeps what a fit to the training pictures for a whole schedule has given, unless it is of a head alone.

    probabilities: (n, classes) of the validation pictures. Of a whole network, the weights too.
    """
    cut = nearest_cut(context.backbone, config.frozen_depth)
    if cut != TOP:
        _keep(_predictions_file(context, config, seed), probabilities)
    if cut == PIXELS:
        _keep_weights(_weights_folder(context), _key(config, seed), score, get_weights(model))


def read_held_out(context: TrialContext, config: TrialConfig, seed: int) -> FloatArray | None:
    """The probabilities that were kept of this configuration and seed; None where nothing sound is there."""
    return _read(_predictions_file(context, config, seed))


def read_weights(context: TrialContext, config: TrialConfig, seed: int) -> FloatArray | None:
    """The weights that were kept of this configuration and seed, one after the other; None likewise."""
    kept = _weights_folder(context).glob(f"* {_key(config, seed)}.npy")
    return next((found for path in kept if (found := _read(path)) is not None), None)


def _keep_weights(folder: Path, key: str, score: float, weights: FloatArray) -> None:
    _keep(folder / f"{score:.9f} {key}.npy", weights)
    for path in sorted(folder.glob("[!.]*.npy"), reverse=True)[_MOST:]:
        path.unlink(missing_ok=True)


def _keep(path: Path, values: npt.NDArray[np.float32]) -> None:
    def write(part: Path) -> None:
        np.save(part, values)
        seal(part, path.name)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, write)


def _read(path: Path) -> FloatArray | None:
    try:
        if not is_sound(path, path.name):
            return None
        found: FloatArray = np.load(path)
    except (FileNotFoundError, ValueError, EOFError):  # not there, or cut off since it was checked
        return None
    return found


def _predictions_file(context: TrialContext, config: TrialConfig, seed: int) -> Path:
    return context.store.folder / _FOLDER / f"{_question(context)}-{_key(config, seed)}.npy"


def _weights_folder(context: TrialContext) -> Path:
    return context.store.folder / _FOLDER / _WEIGHTS / _question(context)


def _question(context: TrialContext) -> str:
    """The pictures and their labels, the backbone's weights, and the recipes, in short."""
    train, val, backbone = context.data.train, context.data.val, context.backbone
    return _digest(
        {
            "backbone": [backbone.name, backbone.digest, backbone.size],
            "views": context.spec.views,
            "recipes": RECIPES,
            "pictures": [[*each.keys, *map(int, each.labels)] for each in (train, val)],
            "classes": context.classes,
        }
    )


def _key(config: TrialConfig, seed: int) -> str:
    return _digest({"config": config.model_dump(), "seed": seed})


def _digest(depends: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]
