"""A tail that begins with a random head against one whose head was fitted alone first; no test picture is used.

    python benchmarks/head_start.py --cases trashnet wid --seeds 11 12 13

One configuration, MobileNetV3Small 0.75 cut at `--depth`, fitted on the training pictures of each split for its whole
schedule. Prints macro F1 and log loss on the validation pictures, and the mean difference.
"""

import argparse

import numpy as np
from common import prepare, temporary_folder, write_study
from optuna.trial import FixedTrial

from wastetune.console import open_console
from wastetune.evaluation.calibration import log_loss
from wastetune.evaluation.metrics import metric_value
from wastetune.search.space import default_params
from wastetune.training.fit import predict_probabilities
from wastetune.tuning.objective import choose_config, fitted_learner, tuning_sets

STUDY = {"backbone": "mobilenet_v3_small_075", "space": "transfer", "trials": 1}
CHANGED = {"learning_rate": 5e-4, "augmentation": 0.67}  # of the default of the space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["trashnet", "wid"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[11, 12, 13])
    parser.add_argument("--depth", type=float, default=0.67)
    parser.add_argument("--epochs", type=int, help="fewer than the space has: shows that the script works")
    asked = parser.parse_args()
    bar, gains = open_console(quiet=True).bar, []
    with temporary_folder():
        for case, seed in ((case, seed) for seed in asked.seeds for case in asked.cases):
            context = prepare(write_study(f"{case}{seed}", dataset=case, seed=seed, **STUDY)).context
            params = default_params(context.space) | CHANGED | {"frozen_depth": asked.depth}
            config = choose_config(FixedTrial(params), context)
            train, val = tuning_sets(context, config, bar)
            scores = {}
            for start in ("random", "fitted"):
                chosen = config.model_copy(update={"head_start": start})
                epochs = asked.epochs or chosen.epochs
                with fitted_learner(context, chosen, train, epochs=epochs, seed=seed) as learner:
                    predicted = predict_probabilities(learner, val.activations)
                scores[start] = metric_value("macro_f1", val.labels, predicted)
                loss = log_loss(val.labels, predicted)
                print(f"{case}, seed {seed}, {start}: macro F1 {scores[start]:.4f}, log loss {loss:.4f}", flush=True)
            gains.append(scores["fitted"] - scores["random"])
    print(f"fitted minus random, mean of {len(gains)}: {np.mean(gains):+.4f}")


if __name__ == "__main__":
    main()
