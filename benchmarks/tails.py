"""Images/s of training a backbone's tail with and without XLA, at the cuts that a study searches."""

import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from wastetune.backbones.backbone import load_backbone, nearest_cut
from wastetune.backbones.cuts import Cut
from wastetune.training.config import TrialConfig
from wastetune.training.learner import built_model, compile_model

BATCH, SECONDS, CLASSES = 32, 8.0, 9
CASES = (("resnet50", 0.8125), ("resnet50", 0.9375), ("mobilenet_v3_small_075", 0.6667), ("inception_v3", 0.9))


def rate(model, inputs, targets) -> tuple[float, float]:
    started = time.perf_counter()
    model.train_on_batch(inputs, targets)
    first, steps, started = time.perf_counter() - started, 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        model.train_on_batch(inputs, targets)
        steps += 1
    return first, steps * BATCH / (time.perf_counter() - started)


def main() -> None:
    weights = Path(os.environ["WASTETUNE_WEIGHTS"])
    config = TrialConfig(head_layers=0, dropout=0.2, learning_rate=1e-4, batch_size=BATCH, epochs=1)
    for name, depth in CASES:
        here = (weights / f"{name}_notop.weights.h5").exists()  # speed does not depend on the weights
        backbone = load_backbone(name, "imagenet" if here else "none", folder=weights)
        cut: Cut = nearest_cut(backbone, depth)
        for xla in (False, True):
            with built_model(backbone, cut, config, CLASSES, seed=0) as model:
                compile_model(model, config, horizon=100, xla=xla)
                draw = np.random.default_rng(0)
                inputs = draw.uniform(size=(BATCH, *model.inputs[0].shape[1:])).astype(np.float32)
                targets = np.eye(CLASSES, dtype=np.float32)[draw.integers(0, CLASSES, BATCH)]
                first, images = rate(model, inputs, targets)
            compiled = "XLA" if xla else "plain"
            print(f"{name:24} {cut.name:18} {compiled:6} first step {first:5.1f} s, then {images:7.1f} images/s")


if __name__ == "__main__":
    main()
