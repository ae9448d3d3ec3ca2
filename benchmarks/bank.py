"""Is a bank of a few stored views as good as new views in every epoch? Macro F1 on TrashNet, frozen backbone.

One configuration (a report's best, or the default of the space `head`) is trained for the same number of epochs on
banks of 1, 2, 4 and 8 views and on views that are new in every epoch, for several splits and seeds. Scores are those of
the validation pictures after the last epoch; no test pictures are used.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from common import Row, options, prepare_trashnet, print_table, temporary_folder
from optuna.trial import FixedTrial
from scipy.stats import t as student

from wastetune.backbones.activation_store import Activations
from wastetune.backbones.augmentation import build_views, usable_views, view_magnitude
from wastetune.backbones.backbone import Backbone
from wastetune.backbones.cuts import TOP
from wastetune.backbones.runtime import open_trunk
from wastetune.data.pixels import open_pixels
from wastetune.data.splits import split_index
from wastetune.evaluation.metrics import metric_value
from wastetune.search.space import default_params, load_space, sample
from wastetune.settings import cache_folder
from wastetune.training.config import TrialConfig
from wastetune.training.fit import TrainingSet, fit_final, predict_probabilities, steps_per_epoch
from wastetune.training.learner import open_learner
from wastetune.tuning.prepare import Prepared

BANKS = (1, 2, 4, 8)
FRESH = 1000  # number of the first new view, higher than those of any bank


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--report", type=Path, help="a study's report.json, for its best configuration")
    parser.add_argument("--strength", type=float, help="another augmentation strength than the configuration's")
    asked = parser.parse_args()
    config = chosen_config(asked)
    with temporary_folder():
        print_table(compare_banks(prepare_trashnet(quick=asked.quick), config, asked.quick), asked.json)


def chosen_config(asked: argparse.Namespace) -> TrialConfig:
    if asked.report:
        config = TrialConfig.model_validate(json.loads(asked.report.read_text())["best"]["config"])
    else:
        space = load_space("head")
        config = sample(space, FixedTrial(default_params(space)))
    changes = {"augmentation": asked.strength, "epochs": 3 if asked.quick else None, "frozen_depth": 1.0}
    return config.model_copy(update={key: value for key, value in changes.items() if value is not None})


def compare_banks(prepared: Prepared, config: TrialConfig, quick: bool) -> Iterator[Row]:
    index, backbone = prepared.index, prepared.context.backbone
    labels = np.array([picture.label for picture in index.pictures])
    features = view_features(prepared)
    plain = features(0, np.zeros(len(labels)))
    banks = {
        count: [plain]
        + [
            features(view, np.full(len(labels), view_magnitude(view, count)))
            for view in range(1, usable_views(config.augmentation, count) if count > 1 else 1)
        ]
        for count in BANKS
    }
    # The magnitude of a new view is drawn for each picture and epoch, from 0 to the configuration's strength.
    rng = np.random.default_rng(0)
    new = [features(FRESH + e, rng.uniform(0, config.augmentation, len(labels))) for e in range(config.epochs)]
    # In each epoch, a bank is trained on as a whole, which draws a view for each picture; a new view is the only one.
    epochs = {str(count): [bank] * config.epochs for count, bank in banks.items()} | {"new": [[view] for view in new]}
    scores: dict[str, list[float]] = {name: [] for name in epochs}
    for split_seed in range(2 if quick else 5):
        split = split_index(index, seed=split_seed, val_fraction=0.15, test_fraction=0.2)
        train, val = np.array(split.train), np.array(split.val)
        for seed in range(1 if quick else 2):
            for name, views in epochs.items():
                sets = [
                    TrainingSet(tuple(Activations((v[train],)) for v in seen), labels[train], int(labels.max()) + 1)
                    for seen in views
                ]
                scores[name].append(score(backbone, config, sets, Activations((plain[val],)), labels[val], seed))
    for name, values in scores.items():
        gap = np.array(scores["new"]) - np.array(values)
        yield {
            "views of the bank": name,
            "used": len(banks[int(name)]) if name != "new" else config.epochs,
            "macro F1": float(np.mean(values)),
            "new is better by": float(gap.mean()),
            "95 % margin": float(student.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap))),
        }


def view_features(prepared: Prepared) -> Callable[[int, np.ndarray], np.ndarray]:
    """A function of a view's number and each picture's magnitude: the pooled vectors of all pictures."""
    backbone = prepared.context.backbone
    trunk, pixels = open_trunk(backbone, (TOP,)), open_pixels(prepared.index, backbone.size, cache_folder())
    keys = [picture.pixels_sha256 for picture in prepared.index.pictures]

    def features(view: int, magnitudes: np.ndarray) -> np.ndarray:
        def batches() -> Iterator[np.ndarray]:
            for start in range(0, len(keys), trunk.batch):
                rows = range(start, min(start + trunk.batch, len(keys)))
                yield np.concatenate([build_views(pixels.read([r]), [keys[r]], view, magnitudes[r]) for r in rows])

        return np.concatenate([activations for (activations,) in trunk.run(batches())])

    return features


def score(
    backbone: Backbone,
    config: TrialConfig,
    epochs: list[TrainingSet],
    val: Activations,
    labels: np.ndarray,
    seed: int,
) -> float:
    """Validation macro F1 after the last epoch; each epoch has a training set of its own."""
    classes, steps = int(labels.max()) + 1, steps_per_epoch(len(epochs[0].labels), config)
    with open_learner(backbone, TOP, config, classes, horizon=len(epochs) * steps, seed=seed) as learner:
        for number, train in enumerate(epochs):
            fit_final(learner, train, config=config, steps=steps, seed=seed * 1000 + number)
        return metric_value("macro_f1", labels, predict_probabilities(learner, val))


if __name__ == "__main__":
    main()
