"""Golden scores: what each recipe gives for tiny inputs, kept in `tests/fixtures/recipes.json`.

    make golden      # or: PYTHONPATH=tests python -m support.recipes

renews the file. It refuses where a recipe gives something else and its number is the same: raise the number in
`src/wastetune/tuning/recipes.py` first, or, if another version of a library is the cause and not a change of ours, pass
`--same-numbers`. Floats are compared within the tolerance of their recipe, so that processors and versions of Python do
not count; `tests/tuning/test_recipes.py` shows that changed constants do.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from PIL import Image

from wastetune.backbones import activation_store, augmentation, catalog, cuts
from wastetune.backbones.activation_store import Store, fill_activations, open_activations
from wastetune.backbones.backbone import load_backbone, nearest_cut
from wastetune.backbones.keras_applications import build_preprocessing, weights_digest
from wastetune.console import open_console
from wastetune.data import image, near_duplicates, splits
from wastetune.data.index import ImageIndex, Picture
from wastetune.data.pixels import PictureSet
from wastetune.evaluation import metrics
from wastetune.search.space import SearchSpace
from wastetune.training.config import TrialConfig
from wastetune.tuning.objective import run_trial
from wastetune.tuning.prepare import TrialContext, TuningData, trial_seed
from wastetune.tuning.recipes import RECIPES
from wastetune.tuning.spec import StudySpec

GOLDEN = Path(__file__).parents[1] / "fixtures" / "recipes.json"
# Relative and absolute tolerance of floats.
TOLERANCES = {
    "pictures": (0.0, 1.01),  # grey levels
    "split": (0.0, 0.0),
    "views": (0.0, 1.25),  # grey levels, of means over 4 x 4 pixels: OpenCV 4.10 and 5.0 differ by 0.9
    "activations": (5e-3, 1e-3),  # half precision
    "metrics": (1e-6, 1e-6),
    "head training": (1e-4, 5e-5),
    "tail training": (2e-3, 1e-3),
}
# Recipe -> those whose output is its input: where one of them is raised, it gives something else with the same number.
RESTS_ON = dict.fromkeys(("head training", "tail training"), ("activations", "metrics"))

SIZE = 32  # pixels a side
BACKBONE = "mobilenet_v3_small_minimalistic"


def draw(seed, width, height, channels=3):
    """Smooth colours with some noise, (height, width, channels) uint8: the same on every machine."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (4, 4, channels)).repeat(-(-height // 4), axis=0).repeat(-(-width // 4), axis=1)
    noise = generator.integers(-20, 21, (height, width, channels))
    return np.clip(coarse[:height, :width] + noise, 0, 255).astype(np.uint8)


def rounded(array, digits):
    return np.round(np.asarray(array, np.float64), digits).tolist()


def pictures():
    """Decoded and resized pixels of files of several modes, one of them turned by its EXIF block."""
    deep = draw(3, 20, 20)[..., 0].astype(np.uint16) * 250
    drawn = {
        "RGB": (Image.fromarray(draw(1, 40, 24)), {}),
        "RGBA": (Image.fromarray(draw(2, 23, 31, 4), "RGBA"), {}),
        "I;16": (Image.fromarray(deep), {}),
        "L": (Image.fromarray(draw(4, 17, 9)[..., 0]), {}),
    }
    exif = Image.Exif()
    exif[image.ORIENTATION_TAG] = 6
    drawn["turned"] = (drawn["RGB"][0], {"exif": exif})
    found = {}
    for name, (picture, options) in drawn.items():
        content = io.BytesIO()
        picture.save(content, "PNG", **options)
        found[name] = rounded(image.resize_picture(image.decode_picture(content.getvalue()), 6), 1)
    return found


def split():
    """The sides of pictures, some of which are near-duplicates, some almost flat, some of a part of their own."""
    drawn = [draw(seed, 48, 36) for seed in range(40)]
    for seed, by in enumerate((2, 6, 10, 14, 18, 22)):  # more and more noise: some stay near-duplicates
        noise = np.random.default_rng(seed).normal(0, 1, (6, 6)).repeat(6, axis=0).repeat(8, axis=1)[..., None]
        drawn.append(np.clip(drawn[seed] + by * noise, 0, 255).astype(np.uint8))
    for seed in range(8):  # contrasts around the one below which a picture counts as flat
        drawn.append((120 + (3 + 0.75 * seed) * np.sign(draw(seed, 48, 36).astype(float) - 127)).astype(np.uint8))
    found = {}
    for name, own in (("drawn", ()), ("with a test part", range(0, 40, 7))):
        rows = []
        for number, pixels in enumerate(drawn):
            picture = Image.fromarray(pixels)
            key = image.pixels_hash(picture)
            part = "test" if number in own else None
            seen = near_duplicates.appearance_of(picture, if_flat=key)
            rows.append(Picture(f"{number:02}.png", number % 2, key, key, seen, 48, 36, part))
        index = ImageIndex(Path("golden"), ("can", "leaf"), tuple(rows), ())
        for grouped in (True, False):
            made = splits.split_index(index, seed=3, val_fraction=0.2, test_fraction=0.25, grouped=grouped)
            sides = {row: side for side in ("train", "val", "test", "left_out") for row in getattr(made, side)}
            found[f"{name}, {'grouped' if grouped else 'alone'}"] = " ".join(sides[row] for row in range(len(rows)))
    return found


def views():
    """Views of all magnitudes, as means over 4 x 4 pixels, and the views that a strength stands for."""
    drawn = np.stack([draw(seed, SIZE, SIZE) for seed in (5, 6, 7)])
    made = {}
    for view in range(4):
        magnitude = augmentation.view_magnitude(view, 4)
        built = augmentation.build_views(drawn, ["a", "b", "c"], view, magnitude).astype(np.float64)
        made[str(view)] = rounded(built.reshape(3, 8, 4, 8, 4, 3).mean(axis=(2, 4)), 2)
    strengths = np.linspace(0, 1, 21)
    made["usable"] = [augmentation.usable_views(float(each), 4) for each in strengths]
    made["snapped"] = [augmentation.snap_strength(float(each), 4) for each in strengths]
    return made


class Trials:
    """Runs tiny trials of a backbone whose weights NumPy draws, because Keras's may differ between versions."""

    def __init__(self, folder):
        loaded = load_backbone(BACKBONE, "none", size=SIZE)
        generator = np.random.default_rng(0)
        names = [weight.path.rsplit("/", 1)[-1] for weight in loaded.body.weights]
        loaded.body.set_weights(
            [_draw_weight(generator, name, w) for name, w in zip(names, loaded.body.get_weights(), strict=True)]
        )
        _normalize(loaded)
        self.backbone = replace(loaded, digest=weights_digest(loaded.body))
        self.store = Store(Path(folder), 10**9)
        self.bar = open_console(quiet=True).bar

    def activations(self):
        """Stored activations of plain pictures at a cut and at the top; preprocessing; the cuts and the catalog."""
        drawn = _draw_set(0, 3)
        found = {
            "cuts": {cut.name: round(cut.frozen_depth, 6) for cut in self.backbone.cuts},
            "nearest": [nearest_cut(self.backbone, depth / 20).name for depth in range(1, 21)],
            "catalog": {name: f"{row!r}" for name, row in catalog.BACKBONES.items()},
        }
        chosen = (nearest_cut(self.backbone, 0.5), cuts.TOP)
        fill_activations(self.store, self.backbone, drawn, chosen, 0, 0.0)
        for cut in chosen:
            made = open_activations(self.store, self.backbone, drawn, cut, 0, 0.0).take(np.arange(3))
            found[cut.name] = rounded(made.reshape(3, -1)[:, ::16][:, :24], 5)
        for kind in ("inside", "signed", "caffe", "torch"):
            found[kind] = rounded(build_preprocessing(kind, 2)(np.arange(12.0).reshape(1, 2, 2, 3)), 4)
        return found

    def trial(self, **config):
        """The epochs of a trial and some of its probabilities."""
        spec = StudySpec(name="golden", source="", dataset="golden", backbone=BACKBONE, seed=5, views=3, weights="none")
        data = TuningData(_draw_set(1, 36), _draw_set(2, 24))
        space = SearchSpace("golden", "", ())
        context = TrialContext(spec, space, ("can", "leaf", "box"), self.backbone, self.store, data)
        # Views without OpenCV, whose versions differ by a grey level here and there.
        with patch.object(activation_store, "build_views", lambda pixels, keys, view, _: np.roll(pixels, 3 * view, 2)):
            result = run_trial(TrialConfig(**config), 7, context, self.bar, lambda epoch: None).fit
        return {
            "losses": rounded([epoch.loss for epoch in result.history], 6),
            "scores": rounded([epoch.score for epoch in result.history], 6),
            "best": result.best.number,
            "probabilities": rounded(result.probabilities[::4], 5),
        }

    def head(self):
        """Trials of heads, with each optimizer."""
        common = {"batch_size": 8, "epochs": 4, "augmentation": 1.0}
        plain = {"head_layers": 0, "dropout": 0.0, "batch_size": 8, "epochs": 3}
        return {
            "defaults": {
                name: field.default for name, field in TrialConfig.model_fields.items() if not field.is_required()
            },
            "seeds": [trial_seed(SimpleNamespace(spec=SimpleNamespace(seed=seed)), 7) for seed in (0, 5)],
            "adamw": self.trial(
                head_layers=1,
                head_units=8,
                dropout=0.3,
                learning_rate=0.02,
                weight_decay=0.9,
                label_smoothing=0.1,
                class_weighting="balanced",
                **common,
            ),
            "adam": self.trial(
                head_layers=2,
                head_units=6,
                head_norm=False,
                dropout=0.1,
                learning_rate=0.01,
                optimizer="adam",
                **common,
            ),
            "sgd": self.trial(**plain, learning_rate=0.05, optimizer="sgd"),
            "impatient": self.trial(**plain | {"epochs": 12}, learning_rate=1e-5, patience=2),
        }

    def tail(self):
        """A trial that trains the last blocks, too."""
        config = {"head_layers": 1, "head_units": 8, "dropout": 0.2, "learning_rate": 0.003, "frozen_depth": 0.9}
        return self.trial(**config, weight_decay=0.5, label_smoothing=0.1, batch_size=12, epochs=2, augmentation=1.0)


def score():
    """The metrics of fixed predictions, one class of which is never true and one never predicted."""
    generator = np.random.default_rng(8)
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 0, 1, 2])
    probabilities = generator.dirichlet(np.ones(4), len(labels)) * np.array([1, 0, 1.3, 1])
    return {name: metrics.metric_value(name, labels, probabilities) for name in metrics.METRICS}


def sections(trials: Trials) -> dict[str, Callable[[], dict]]:
    """Recipe -> what computes its golden values."""
    return {
        "pictures": pictures,
        "split": split,
        "views": views,
        "activations": trials.activations,
        "metrics": score,
        "head training": trials.head,
        "tail training": trials.tail,
    }


def differences(name, then, now, place=""):
    """Where the values of a recipe differ from the golden ones by more than its tolerance, each a phrase.

    What is new in a table is no difference: a key of a configuration, a backbone.
    """
    if isinstance(then, dict):
        for key, value in then.items():
            if key not in now:
                yield f"{place}{key} is gone"
            else:
                yield from differences(name, value, now[key], f"{place}{key}, ")
        return
    relative, absolute = TOLERANCES[name]
    if isinstance(then, list) and np.shape(then) == np.shape(now) and np.asarray(then).dtype == np.float64:
        then, now = np.asarray(then), np.asarray(now, np.float64)
        far = np.abs(then - now) > absolute + relative * np.abs(then)
        if far.any():
            at = tuple(int(axis[0]) for axis in np.nonzero(far))
            yield f"{place}{list(at)}: {then[at]:g} then, {now[at]:g} now ({int(far.sum())} of {far.size} values)"
    elif isinstance(then, float) and isinstance(now, float):
        if abs(then - now) > absolute + relative * abs(then):
            yield f"{place.removesuffix(', ')}: {then:g} then, {now:g} now"
    elif then != now:
        yield f"{place.removesuffix(', ')}: {str(then)[:200]} then, {str(now)[:200]} now"


def read_golden():
    return json.loads(GOLDEN.read_text())


SAME, CHANGED, FOR_NOTHING, RENEW = "same", "changed", "raised for nothing", "to be renewed"


def judge(name, golden, now):
    """How a recipe stands to its golden values, and what to do about it, in a sentence."""
    number, then = str(RECIPES[name]), golden.get(name)
    if then is None:
        return RENEW, f"{name} has no golden values yet: run `make golden`"
    found = list(differences(name, then["gives"], now))
    raised = number != then["recipe"]
    below = [each for each in RESTS_ON.get(name, ()) if str(RECIPES[each]) != golden.get(each, {}).get("recipe")]
    if found and not raised and not below:
        return CHANGED, (
            f"{name}: the same input gives something else, and its recipe is still {number}. If that is meant, raise "
            f"{name!r} in src/wastetune/tuning/recipes.py (or the constant named there) to {int(number) + 1} and run "
            f"`make golden`; studies that were begun before are then refused. First difference: {found[0]}"
        )
    if raised and not found:
        return FOR_NOTHING, (
            f"{name}: its recipe is {number} instead of {then['recipe']}, but it gives the same. Lower it again: it "
            "orphans every study; or, if these inputs do not show the change, run `make golden ARGS=--same-values`"
        )
    if found or raised:
        return RENEW, f"{name}: its recipe, or one that it rests on, was raised: run `make golden`"
    return SAME, ""


def main():
    parser = argparse.ArgumentParser(description="Renews tests/fixtures/recipes.json.")
    parser.add_argument("--same-numbers", action="store_true", help="accept other values under the same number")
    parser.add_argument("--same-values", action="store_true", help="accept another number for the same values")
    options = parser.parse_args()
    refused = {SAME: False, CHANGED: not options.same_numbers, FOR_NOTHING: not options.same_values, RENEW: False}
    kept = read_golden() if GOLDEN.exists() else {}
    with TemporaryDirectory() as folder:
        made = {name: compute() for name, compute in sections(Trials(folder)).items()}
    verdicts = {name: judge(name, kept, now) for name, now in made.items()}
    if told := [sentence for verdict, sentence in verdicts.values() if refused[verdict]]:
        sys.exit("\n".join(told))
    renewed = [name for name, (verdict, _) in verdicts.items() if verdict != SAME]
    kept |= {name: {"recipe": str(RECIPES[name]), "gives": made[name]} for name in renewed}
    GOLDEN.write_text(json.dumps(kept, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print(f"{GOLDEN.name}: {', '.join(renewed) or 'nothing'} renewed")


def _draw_weight(generator, name, weight):
    drawn = generator.standard_normal(weight.shape) * 0.1
    if name in ("gamma", "moving_variance"):
        drawn += 1
    return drawn.astype(np.float32)


def _normalize(backbone):
    """Gives batch normalization the statistics of some pictures; otherwise no picture would differ from another."""
    import keras

    norms = [layer for layer in backbone.body.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [(layer.momentum, layer.trainable) for layer in norms]
    for layer in norms:
        layer.momentum, layer.trainable = 0.0, True
    drawn = _draw_set(3, 48)
    backbone.body(backbone.preprocess(drawn.read(range(48)).astype(np.float32)), training=True)
    for layer, (momentum, trainable) in zip(norms, before, strict=True):
        layer.momentum, layer.trainable = momentum, trainable


def _draw_set(seed, count):
    """Noise whose colour tells the class a little."""
    generator = np.random.default_rng(100 + seed)
    labels = np.arange(count) % 3
    labels[: count // 6] = 0  # classes of different sizes
    tint = np.array([[90, 0, 0], [0, 90, 0], [0, 0, 90]])[labels][:, None, None]
    coarse = generator.integers(0, 166, (count, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    pixels = (coarse + tint).astype(np.uint8)
    keys = tuple(f"golden {seed} {number}" for number in range(count))

    def read(rows):
        return pixels[list(rows)]

    return PictureSet(read, keys, labels.astype(np.int64), keys, decode=read)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
