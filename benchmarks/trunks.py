"""Images/s of a frozen trunk, from pixels in memory to pooled vectors: model.predict and what wastetune runs."""

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from wastetune.backbones.backbone import Backbone, build_trunk, load_backbone
from wastetune.backbones.cuts import TOP
from wastetune.backbones.runtime import VARIABLE, TrunkRunner, choose_runtime, open_trunk

BACKBONES = ("mobilenet_v3_small_075", "resnet50", "inception_v3")
COUNT, BATCH, ROUNDS = 128, 32, 4
SECONDS = 2.0  # at least, for each runtime in each round


def load(name: str) -> Backbone:
    """With real weights where they are there; speed does not depend on them."""
    folder = Path(os.environ.get("WASTETUNE_WEIGHTS", "weights"))
    here = (folder / f"{name}_notop.weights.h5").exists()
    return load_backbone(name, "imagenet" if here else "none", folder=folder)


def runtimes(backbone: Backbone) -> dict[str, Callable[[], object]]:
    """Each pushes COUNT pictures through the trunk."""
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, backbone.size, backbone.size, 3), dtype=np.uint8)
    floats, trunk = pixels.astype(np.float32), build_trunk(backbone, (TOP,))
    table: dict[str, Callable[[], object]] = {
        "model.predict": lambda: trunk.predict(floats, batch_size=BATCH, verbose=0)
    }
    for name in dict.fromkeys(("keras", choose_runtime())):
        with patch.dict(os.environ, {VARIABLE: name}):
            runner = open_trunk(backbone, (TOP,))

        def run(runner: TrunkRunner = runner) -> object:
            return list(runner.run(pixels[i : i + runner.batch] for i in range(0, COUNT, runner.batch)))

        table[f"wastetune, {name}"] = run
    return table


def rate(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    for times in itertools.count(1):
        work()
        if (spent := time.perf_counter() - started) > SECONDS:
            return COUNT * times / spent
    raise AssertionError


def measure(name: str) -> dict[str, float]:
    """Runtime -> images/s, the best of ROUNDS: whatever else runs on a machine only ever takes away."""
    table = runtimes(load(name))
    for work in table.values():
        work()  # compiles
    rounds = [{runtime: rate(work) for runtime, work in table.items()} for _ in range(ROUNDS)]
    return {runtime: max(each[runtime] for each in rounds) for runtime in table}


def best_rate(backbone_name: str) -> float:
    """Images/s of the fastest runtime there is: no study can have its activations sooner."""
    return max(measure(backbone_name).values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbones", nargs="*", default=BACKBONES)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    figures = {}
    for name in arguments.backbones:
        figures[name] = measure(name)
        for runtime, images in figures[name].items():
            times = images / figures[name]["model.predict"]
            print(f"{name:24} {runtime:24} {images:8.1f} images/s   {times:5.2f} x model.predict", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
