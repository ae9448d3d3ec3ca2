"""What does each ingredient of a fit give, one at a time? Paired over splits; no test picture is used.

    heads: mixup, and shifts of the stored features, for a head alone: the default of the space `head`
    network: mixup, and rates that fall by layer, for the whole network: the second trial of the space `full`
    once: how to use the time of two fits of it, in a trial and again: the second one alone, begun anew or with the
        weights of the first, the mean of both, or one longer fit, of all pictures or of those of the trial (`--epochs`
        are those of each of the two)
    beside: heads averaged with it, the network having one or several times their weight (`--epochs` are the network's;
        `--set frozen_depth=0.67 learning_rate=5e-4`: with a part of it)
    live: views that are new in every epoch, where a part of the backbone is trained (`--set frozen_depth=0.67
        learning_rate=5e-4`), which has stored ones as it is

    python benchmarks/ingredients.py heads --cases trashnet wid --splits 11 12 13 --fits 3

MobileNetV3Small 0.75, fitted on the training pictures of each split for the whole schedule. Prints macro F1 and log
loss on the validation pictures, and the mean difference from the fit as it is, with its standard error.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from common import options, prepare, print_table, temporary_folder, write_small_study, write_study
from optuna.trial import FixedTrial

from wastetune.backbones.backbone import nearest_cut
from wastetune.backbones.catalog import find_architecture
from wastetune.backbones.cuts import block_ends
from wastetune.console import open_console
from wastetune.evaluation.calibration import fit_temperature, log_loss, scale_probabilities
from wastetune.evaluation.metrics import metric_value
from wastetune.search.space import default_params, enqueued_params
from wastetune.training.config import TrialConfig
from wastetune.training.fit import FloatArray, fit_final, predict_probabilities, steps_per_epoch
from wastetune.training.head_start import fit_head_first
from wastetune.training.learner import Learner, get_weights, open_learner, set_weights
from wastetune.training.numpy_mlp import NumpyMLP
from wastetune.tuning.objective import choose_config, tuning_sets
from wastetune.tuning.prepare import TrialContext

Change = Callable[[FloatArray, FloatArray, np.random.Generator], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True)
class Ingredient:
    """What is changed of a fit: each batch, the rate of a layer for each block below the head, keys, or what is fitted.

    Or nothing is fitted, and the probabilities are the mean of those of other ingredients; one that is named twice has
    double weight. `after` is one before it, whose weights it begins with. `trial` is another of the space's first
    trials, as it is.
    """

    change: Change | None = None
    decay: float = 1.0
    pictures: float = 1.0  # times those of the training part
    keys: Mapping[str, float] = field(default_factory=dict)  # of the configuration, unlike those of the fit as it is
    epochs: float = 1.0  # times those of the configuration
    after: str = ""
    mean_of: tuple[str, ...] = ()
    trial: int | None = None


def mixup(alpha: float) -> Change:
    """Zhang et al. 2018, arXiv 1710.09412: each picture with another one of its batch, one share for the batch."""

    def change(inputs: FloatArray, targets: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        share, other = np.float32(rng.beta(alpha, alpha)), rng.permutation(len(inputs))
        return share * inputs + (1 - share) * inputs[other], share * targets + (1 - share) * targets[other]

    return change


def brightness(most: float, *, channels: bool) -> Change:
    """Bär et al. 2024, arXiv 2403.10519: features shifted by a share of their range, by channel or all alike."""

    def change(inputs: FloatArray, targets: FloatArray, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        low, high = inputs.min(), inputs.max()
        shift = rng.uniform(-most, most, (len(inputs), inputs.shape[1] if channels else 1))
        moved = np.clip(inputs + shift.astype(np.float32) * (high - low), low, high)
        return moved, targets

    return change


HEADS = {
    "as it is": Ingredient(),
    "mixup .2": Ingredient(mixup(0.2)),
    "mixup 1": Ingredient(mixup(1.0)),
    "shift .02": Ingredient(brightness(0.02, channels=False)),
    "shift .1": Ingredient(brightness(0.1, channels=False)),
    "shift by channel .02": Ingredient(brightness(0.02, channels=True)),
    "shift by channel .1": Ingredient(brightness(0.1, channels=True)),
}
NETWORK = {
    "as it is": Ingredient(),
    "rate x .9 a block": Ingredient(decay=0.9),
    "rate x .75 a block": Ingredient(decay=0.75),
    "mixup .2": Ingredient(mixup(0.2)),
}
ONCE = {
    "as it is": Ingredient(),
    "fewer pictures": Ingredient(pictures=0.82),
    "mean of both": Ingredient(mean_of=("as it is", "fewer pictures")),
    "continued": Ingredient(after="fewer pictures"),
    "mean of both, continued": Ingredient(mean_of=("continued", "fewer pictures")),
    "continued, half": Ingredient(after="fewer pictures", epochs=0.5),
    "mean of both, half": Ingredient(mean_of=("continued, half", "fewer pictures")),
    "more epochs": Ingredient(epochs=1.82),
    "fewer pictures, more epochs": Ingredient(pictures=0.82, epochs=2.2),
}
NET, DEFAULT, WIDER = "as it is", "default head", "wider head"
BESIDE = {
    NET: Ingredient(),
    DEFAULT: Ingredient(trial=0),
    WIDER: Ingredient(trial=2),
    "both heads": Ingredient(mean_of=(DEFAULT, WIDER)),
    "1 : 1": Ingredient(mean_of=(NET, WIDER)),
    "2 : 1": Ingredient(mean_of=(NET, NET, WIDER)),
    "3 : 1": Ingredient(mean_of=(NET, NET, NET, WIDER)),
    "1 : 1 + 1": Ingredient(mean_of=(NET, DEFAULT, WIDER)),
    "2 : 1 + 1": Ingredient(mean_of=(NET, NET, DEFAULT, WIDER)),
    "4 : 1 + 1": Ingredient(mean_of=(NET, NET, NET, NET, DEFAULT, WIDER)),
}
LIVE = {
    "as it is": Ingredient(),
    "new views": Ingredient(keys={"live_depth": 1.0}),
    "all four views": Ingredient(keys={"augmentation": 1.0}),
    "new views, stronger": Ingredient(keys={"live_depth": 1.0, "augmentation": 1.0}),
}
SCORES = ("macro F1", "log loss", "calibrated")  # the last: log loss at the temperature that fits these pictures best
# The space, the trial that is "as it is", and what is tried.
PARTS = {
    "heads": ("head", 0, HEADS),
    "network": ("full", 1, NETWORK),
    "once": ("full", 1, ONCE),
    "beside": ("full", 1, BESIDE),
    "live": ("full", 1, LIVE),
}


def main() -> None:
    parser = options(__doc__, *PARTS)
    parser.add_argument("--cases", nargs="+", default=["trashnet", "wid"])
    parser.add_argument("--splits", nargs="+", type=int, default=[11, 12, 13], help="seeds")
    parser.add_argument("--fits", type=int, default=1, help="for each split, with other seeds of the fit")
    parser.add_argument("--epochs", type=int, help="other than those of the configuration")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=NUMBER", help="likewise, of the fit as it is")
    parser.add_argument("--only", nargs="+", help="ingredients, by name, besides the fit as it is")
    asked = parser.parse_args()
    if asked.quick:
        asked.cases, asked.splits = ["small"], [11]
    parts = [name for name in PARTS if asked.part in (name, "all")]
    with temporary_folder():
        rows = (row for name in parts for row in measure(name, asked))
        summarize(print_table(rows, asked.json))


def measure(part: str, asked: Any) -> Iterator[dict[str, Any]]:
    space, trial, ingredients = PARTS[part]
    for case, split in ((case, split) for split in asked.splits for case in asked.cases):
        context = open_context(case, split, space)
        plain = configuration(context, trial)
        if epochs := 1 if asked.quick else asked.epochs:
            plain = plain.model_copy(update={"epochs": epochs})
        changed = dict(each.split("=") for each in asked.set)
        plain = plain.model_copy(update={key: float(number) for key, number in changed.items()})
        for seed in range(asked.fits):
            found: dict[str, FloatArray] = {}
            weights: dict[str, Any] = {}
            for name in wanted(ingredients, asked.only):
                ingredient = ingredients[name]
                if ingredient.mean_of:
                    found[name] = np.mean([found[each] for each in ingredient.mean_of], axis=0)
                else:
                    config = plain if ingredient.trial is None else configuration(context, ingredient.trial)
                    config = config.model_copy(update=dict(ingredient.keys))
                    start = weights.get(ingredient.after)
                    found[name], weights[name] = fit(context, config, ingredient, seed, start)
                labels = context.data.val.labels
                yield {"part": part, "ingredient": name, "case": case, "split": split, "fit": seed} | {
                    "macro F1": metric_value("macro_f1", labels, found[name]),
                    "log loss": log_loss(labels, found[name]),
                    "calibrated": log_loss(
                        labels, scale_probabilities(found[name], fit_temperature(labels, found[name]))
                    ),
                }


def wanted(ingredients: Mapping[str, Ingredient], only: Sequence[str] | None) -> list[str]:
    """The fit as it is, those asked for, and what they need of others; in the order of the table."""
    names = set(ingredients) if only is None else {"as it is", *only} & set(ingredients)
    for _ in ingredients:  # what is needed may need others
        names |= {each for name in names for each in (*ingredients[name].mean_of, ingredients[name].after) if each}
    return [name for name in ingredients if name in names]


def open_context(case: str, split: int, space: str) -> TrialContext:
    chosen = {"seed": split, "space": space, "trials": 1}
    if case == "small":
        file = write_small_study(f"{case}{split}_{space}", **chosen)
    else:
        file = write_study(f"{case}{split}", dataset=case, backbone="mobilenet_v3_small_075", **chosen)
    return prepare(file).context


def configuration(context: TrialContext, trial: int) -> TrialConfig:
    """Of the space's default, which is trial 0, or of one of the trials that follow it."""
    params = [default_params(context.space), *enqueued_params(context.space)][trial]
    return choose_config(FixedTrial(params), context)


def fit(
    context: TrialContext, config: TrialConfig, ingredient: Ingredient, seed: int, start: Any = None
) -> tuple[FloatArray, Any]:
    """The probabilities of the validation pictures after the whole schedule, and the weights but for a head alone's.

    `start`: weights to begin with.
    """
    train, val = tuning_sets(context, config, open_console(quiet=True).bar)
    cut = nearest_cut(context.backbone, config.frozen_depth)
    if ingredient.pictures < 1:
        count = len(train.labels)
        train = train.select(np.random.default_rng(seed).permutation(count)[: round(ingredient.pictures * count)])
    config = config.model_copy(update={"epochs": round(config.epochs * ingredient.epochs)})
    steps = config.epochs * steps_per_epoch(len(train.labels), config)
    with open_learner(context.backbone, cut, config, len(context.classes), horizon=steps, seed=seed) as learner:
        if ingredient.decay < 1:
            slow_down(learner, context, ingredient.decay)
        if start is None:
            fit_head_first(learner, train, config, seed=seed)
        else:
            set_weights(learner, start)
        changed = learner if ingredient.change is None else Changed(learner, ingredient.change, seed)
        fit_final(changed, train, config=config, steps=steps, seed=seed)
        weights = None if isinstance(learner, NumpyMLP) else get_weights(learner)
        return predict_probabilities(learner, val.activations), weights


class Changed:
    """A learner whose batches are changed before each step."""

    def __init__(self, learner: Learner, change: Change, seed: int) -> None:
        self._learner, self._change, self._rng = learner, change, np.random.default_rng(seed)

    def train_on_batch(self, inputs: FloatArray, targets: FloatArray, sample_weight: FloatArray) -> Any:
        return self._learner.train_on_batch(*self._change(inputs, targets, self._rng), sample_weight=sample_weight)

    def predict_on_batch(self, inputs: FloatArray) -> Any:
        return self._learner.predict_on_batch(inputs)


def slow_down(model: Any, context: TrialContext, decay: float) -> None:
    """Multiplies the rate of each layer of the tail by `decay`, once for each block between it and the head."""
    body = context.backbone.body
    ends = {id(end) for end in block_ends(find_architecture(context.backbone.name), body).values()}
    below: dict[int, int] = {}  # a weight -> blocks that end before its layer
    passed = 0
    for operation in body.operations:
        below |= {id(weight): passed for weight in getattr(operation, "trainable_variables", ())}
        passed += id(operation) in ends
    optimizer = model.optimizer
    scale = [decay ** (passed + 1 - below.get(id(each), passed + 1)) for each in model.trainable_variables]
    assert min(scale) < 1
    update = optimizer.update_step
    optimizer.update_step = lambda gradient, variable, rate: update(
        gradient, variable, rate * scale[optimizer._get_variable_index(variable)]
    )


def summarize(rows: list[dict[str, Any]]) -> None:
    """The mean difference of each ingredient from the fit as it is, over the splits, and its standard error."""
    scores = {tuple(row[key] for key in ("part", "ingredient", "case", "split", "fit")): row for row in rows}
    found: dict[tuple[str, str, str], dict[int, list[dict[str, float]]]] = {}
    for (part, name, case, split, seed), row in scores.items():
        plain = scores[part, "as it is", case, split, seed]
        gain = {key: row[key] - plain[key] for key in SCORES}
        found.setdefault((part, name, case), {}).setdefault(split, []).append(gain)
    table = []
    for (part, name, case), splits in found.items():
        line: dict[str, Any] = {"part": part, "ingredient": name, "case": case, "splits": len(splits)}
        for key in SCORES:
            means = [statistics.mean(gain[key] for gain in gains) for gains in splits.values()]
            line[f"{key} gain"] = statistics.mean(means)
            line[f"{key} error"] = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None
        table.append(line)
    print_table(table)


if __name__ == "__main__":
    main()
