"""Is a bank of a few stored views as good as new views in every epoch? Macro F1 on TrashNet, frozen trunk.

    python benchmarks/bank.py [--report results/STUDY/report.json] [--json FILE]

Takes one configuration (the winner of a report, or the space's default) and trains it on banks of 1, 2, 4 and 8 views
and on views made anew for every epoch, on several splits and seeds, for the same number of epochs. What is compared
are the validation pictures of those splits after the last epoch; no test set is touched.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from wastetune.backbones.activation_store import Activations
from wastetune.backbones.augmentation import build_views, usable_views, view_magnitude
from wastetune.backbones.backbone import load_backbone
from wastetune.backbones.cuts import TOP
from wastetune.backbones.runtime import open_trunk
from wastetune.data.index import index_folder
from wastetune.data.pixels import open_pixels
from wastetune.data.splits import split_index
from wastetune.search.space import default_params, load_space
from wastetune.settings import cache_folder
from wastetune.training.config import TrialConfig
from wastetune.training.fit import TrainingSet, fit_final, predict_probabilities, steps_per_epoch
from wastetune.training.learner import built_learner
from wastetune.training.metrics import metric_value

BANKS = (1, 2, 4, 8)
SPLITS, SEEDS = 5, 2
FRESH = 1000  # numbers of the views made anew: none of a bank's


def main() -> None:
    arguments = parse()
    folder, weights = Path(os.environ["WASTETUNE_DATA"]), Path(os.environ["WASTETUNE_WEIGHTS"])
    config = chosen_config(arguments).model_copy(update={"patience": 10_000, "frozen_depth": 1.0})
    if arguments.strength is not None:
        config = config.model_copy(update={"augmentation": arguments.strength})
    backbone = load_backbone(arguments.backbone, folder=weights)
    trunk = open_trunk(backbone, (TOP,))
    index = index_folder(folder / "trashnet", cache=cache_folder())
    pixels = open_pixels(index, backbone.size, cache_folder())
    labels = np.array([picture.label for picture in index.pictures])

    def features(view: int, magnitudes: np.ndarray) -> np.ndarray:
        def batches():
            for start in range(0, len(labels), trunk.batch):
                rows = range(start, min(start + trunk.batch, len(labels)))
                yield np.concatenate(
                    [build_views(pixels.array[r : r + 1], [pixels.keys[r]], view, magnitudes[r]) for r in rows]
                )

        made = [activations for (activations,) in trunk.run(batches())]
        print(f"view {view}: {len(labels)} pictures", file=sys.stderr)
        return np.concatenate(made)

    plain = features(0, np.zeros(len(labels)))
    banks = {
        count: [plain]
        + [
            features(view, np.full(len(labels), view_magnitude(view, count)))
            for view in range(1, usable_views(config.augmentation, count) if count > 1 else 1)
        ]
        for count in BANKS
    }
    # Anew: the magnitude too is drawn for each picture and epoch, from 0 to the configuration's strength.
    draw = np.random.default_rng(0)
    anew = [features(FRESH + e, draw.uniform(0, config.augmentation, len(labels))) for e in range(config.epochs)]
    scores: dict[str, list[float]] = {name: [] for name in (*map(str, BANKS), "anew")}
    for split_seed in range(SPLITS):
        splits = split_index(index, seed=split_seed, val_fraction=0.15, test_fraction=0.2)
        train, val = np.array(splits.train), np.array(splits.val)
        for seed in range(SEEDS):
            for name in scores:
                views = banks[int(name)] if name != "anew" else None
                scores[name].append(score(backbone, config, plain, labels, train, val, seed, views, anew))
    report(scores, banks, config, arguments.json)


def score(backbone, config, plain, labels, train, val, seed, views, anew) -> float:
    """Validation macro F1 after the last epoch; `views` None trains epoch e on the fresh views of epoch e."""
    classes = int(labels.max()) + 1
    steps = steps_per_epoch(len(train), config)
    with built_learner(backbone, TOP, config, classes, horizon=config.epochs * steps, seed=seed) as learner:
        for epoch in range(config.epochs):
            seen = [anew[epoch]] if views is None else views
            stored = TrainingSet(tuple(Activations((v[train],)) for v in seen), labels[train])
            fit_final(learner, stored, config=config, steps=steps, seed=seed * 1000 + epoch)
        return metric_value("macro_f1", labels[val], predict_probabilities(learner, Activations((plain[val],))))


def report(scores, banks, config, file) -> None:
    anew = np.array(scores["anew"])
    rows = []
    for name, values in scores.items():
        gap = anew - np.array(values)
        margin = 2.26 * gap.std(ddof=1) / np.sqrt(len(gap))  # Student's t, ten runs
        views = len(banks[int(name)]) if name != "anew" else config.epochs
        rows.append(
            {
                "bank": name,
                "views_trained_on": views,
                "macro_f1": float(np.mean(values)),
                "anew_is_better_by": float(gap.mean()),
                "margin_95": float(margin),
            }
        )
        print(
            f"{name:>5} views, {views:2d} at this strength: macro F1 {np.mean(values):.4f}, "
            f"anew is better by {gap.mean():+.4f} +- {margin:.4f}"
        )
    if file:
        Path(file).write_text(json.dumps({"config": config.model_dump(), "rows": rows, "scores": scores}, indent=2))


def chosen_config(arguments) -> TrialConfig:
    if arguments.report:
        return TrialConfig.model_validate(json.loads(Path(arguments.report).read_text())["best"]["config"])
    import optuna

    from wastetune.search.space import sample

    space = load_space("head")
    return sample(space, optuna.trial.FixedTrial(default_params(space)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", help="a study's report.json, for its winner's configuration")
    parser.add_argument("--backbone", default="mobilenet_v3_small_075")
    parser.add_argument("--strength", type=float, help="another augmentation strength than the configuration's")
    parser.add_argument("--json", help="where to write the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
