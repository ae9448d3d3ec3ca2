"""How far can a prediction be trusted? Right from wrong, known from unknown, smoothed labels, one head for six.

    python benchmarks/confidence.py collect --case trashnet --folder confidence
    python benchmarks/confidence.py scores --folder confidence     # which score rejects errors and unknown classes
    python benchmarks/confidence.py left_out --case trashnet       # each class unknown in turn
    python benchmarks/confidence.py rule --folder confidence       # the threshold for a wanted precision
    python benchmarks/confidence.py smoothing --folder confidence  # after `collect --smoothing`
    python benchmarks/confidence.py distil --folder confidence     # after `collect`
    python benchmarks/confidence.py sets --folder confidence       # sets of classes that hold the true one

`collect` fits six heads of the space `head` (MEMBERS, not searched) as `wastetune run` fits its final model: on the
training pictures, which gives held-out predictions of the validation pictures; and on both, which gives those of the
test pictures. The other parts read what it kept. Cases: `trashnet` and `wid`; `wid_six`, WID without its three classes
that TrashNet lacks. Of `trashnet` and `wid_six` these three classes are the unknown ones.
"""

import argparse
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from common import folders, prepare, write_study

from wastetune.backbones.activation_store import Activations
from wastetune.backbones.augmentation import usable_views
from wastetune.backbones.cuts import TOP
from wastetune.console import open_console, silence_tensorflow
from wastetune.data.pixels import open_pixels, select_pictures
from wastetune.evaluation.calibration import fit_temperature, log_loss, measure_calibration, scale_probabilities
from wastetune.evaluation.metrics import metric_value
from wastetune.formatting import markdown_table
from wastetune.settings import cache_folder
from wastetune.training.config import TrialConfig
from wastetune.training.fit import TrainingSet, fit_final, steps_per_epoch
from wastetune.training.learner import open_learner
from wastetune.tuning.objective import training_set
from wastetune.tuning.prepare import Prepared

Array = np.ndarray[Any, Any]
CASES = ("trashnet", "wid", "wid_six")
UNKNOWN = ("Organic Waste", "Textiles", "Wood")  # classes of WID that TrashNet has not
KNOWN = ("Aluminium", "Glass", "Other Plastics", "Paper and Cardboard")  # and that it has, from other collections:
OTHER = re.compile(r" \(\d+\)\.")  # WID's files that are not TrashNet's
VIEWS, FOLDS, DRAWS = 4, 5, 400
SMOOTHINGS = (0.0, 0.05, 0.1, 0.2)
SMOOTHED = (0, 1, 3)  # the smaller of MEMBERS
POWERS = (1, 2, 3, 4)  # of norms of logits
CENTRES = (1, 5, 20)  # of a class
FIRST = "probability"
SECONDS = ("Mahalanobis", "tenth nearest picture, raw", "nearest of 5 centres, raw", "nearest of 20 centres, raw")
WANTED = (0.90, 0.95, 0.98, 0.99)
_FIXED: dict[str, Any] = {"head_layers": 1, "head_units": 256, "dropout": 0.3, "learning_rate": 1e-3, "batch_size": 64}
_FIXED |= {"label_smoothing": 0.05, "augmentation": 0.3, "epochs": 30}
MEMBERS = tuple(
    TrialConfig.model_validate(_FIXED | other)
    for other in (
        {},  # the default of the space
        {"learning_rate": 3e-3, "label_smoothing": 0.08},
        {"learning_rate": 3e-3, "head_units": 1024, "dropout": 0.5, "batch_size": 128, "label_smoothing": 0.1},
        {"learning_rate": 2e-3, "head_layers": 2, "dropout": 0.4, "label_smoothing": 0.0},
        {"learning_rate": 2e-3, "head_units": 512, "augmentation": 0.0, "label_smoothing": 0.15, "optimizer": "adam"},
        {"learning_rate": 4e-3, "head_units": 512, "label_smoothing": 0.02, "class_weighting": "balanced"},
    )
)
Row = dict[str, Any]
Kept = dict[str, Array]
Found = dict[tuple[float, str], list[tuple[int, int, int]]]  # (wanted, rule) -> right answers, answers, pictures


# What all parts read


def collect(case: str, seed: int, smoothing: float | None, file: Path, *, out_of_fold: bool) -> None:
    """Fits the six heads of a case and keeps their logits, with the features of its pictures."""
    prepared, everything = load_features("trashnet" if case == "trashnet" else "wid", seed)
    names = prepared.context.classes
    labels = relabel(everything.labels, [not (case == "wid_six" and name in UNKNOWN) for name in names])
    known = TrainingSet(everything.views, labels, int(labels.max()) + 1)
    splits = prepared.splits
    train, val, test = (
        np.array([r for r in part if labels[r] >= 0]) for part in (splits.train, splits.val, splits.test)
    )
    parts = {"val": known.views[0].take(val), "test": known.views[0].take(test)} | other_pictures(case)
    rows = np.concatenate([train, val])
    fold_of = np.random.default_rng(seed).permutation(len(rows)) % FOLDS
    kept: dict[str, list[Array]] = defaultdict(list)
    for number, member in enumerate(MEMBERS):
        if smoothing is not None and number not in SMOOTHED:
            continue
        config = member if smoothing is None else member.model_copy(update={"label_smoothing": smoothing})
        first = 1000 * seed + 10 * number
        predict = fit_head(prepared, known.select(train), config, first)
        kept["val"].append(predict(parts["val"]))
        kept["val_test"].append(predict(parts["test"]))
        predict = fit_head(prepared, known.select(rows), config, first + 1)
        for part in set(parts) - {"val"}:
            kept[part].append(predict(parts[part]))
        if out_of_fold:
            folds = np.zeros((len(rows), known.classes), np.float32)
            for fold in range(FOLDS):
                inside = fold_of == fold
                predict = fit_head(prepared, known.select(rows[~inside]), config, first + 2 + fold)
                folds[inside] = predict(known.views[0].take(rows[inside]))
            kept["folds"].append(folds)
    file.parent.mkdir(exist_ok=True)
    np.savez(
        file,
        **{f"logits_{part}": np.stack(logits) for part, logits in kept.items()},
        **{f"features_{part}": features for part, features in parts.items()},
        features_train=known.views[0].take(train),
        **{f"labels_{part}": labels[chosen] for part, chosen in (("train", train), ("val", val), ("test", test))},
        rows=rows,
    )
    score = metric_value("macro_f1", labels[test], mean(np.stack(kept["test"])))
    print(case, seed, smoothing, f"macro F1 {score:.3f}", flush=True)


@cache
def load_features(dataset: str, seed: int) -> tuple[Prepared, TrainingSet]:
    """A data set with the split of a seed, and the features of all its pictures, in memory."""
    data, _ = folders()
    assert data is not None, "name the folder of data sets: WASTETUNE_DATA"
    study: Row = {"backbone": "mobilenet_v3_small_075", "weights": "imagenet", "space": "head", "views": VIEWS}
    pictures = str(data.resolve() / dataset)
    with tempfile.TemporaryDirectory() as name, chdir(name):
        prepared = prepare(write_study("study", dataset=pictures, seed=seed, **study))
    context, index = prepared.context, prepared.index
    pixels = open_pixels(index, context.backbone.size, cache_folder())
    everything = select_pictures(index, pixels, range(len(index.pictures)))
    config = MEMBERS[0].model_copy(update={"augmentation": 1.0})
    stored = training_set(context, everything, config, open_console(quiet=True).bar, ahead=False)
    views = tuple(Activations((view.take(np.arange(len(view))),)) for view in stored.views)
    return prepared, TrainingSet(views, stored.labels, stored.classes)


def relabel(labels: Array, kept: list[bool]) -> Array:
    """The labels, numbered without the classes that are not kept, which become -1."""
    return np.where(kept, np.cumsum(kept) - 1, -1)[labels]


def other_pictures(case: str) -> dict[str, Array]:
    """Features of pictures of unknown classes; for TrashNet also of known classes from other collections."""
    if case == "wid":
        return {}
    prepared, everything = load_features("wid", 0)
    names = [prepared.context.classes[label] for label in everything.labels]
    files = [picture.path for picture in prepared.index.pictures]
    found = {"unknown": [name in UNKNOWN for name in names]}
    if case == "trashnet":
        pairs = zip(names, files, strict=True)
        found["shifted"] = [name in KNOWN and bool(OTHER.search(file)) for name, file in pairs]
    return {part: everything.views[0].take(np.flatnonzero(chosen)) for part, chosen in found.items()}


def fit_head(prepared: Prepared, train: TrainingSet, config: TrialConfig, seed: int) -> Callable[[Array], Array]:
    """Features (n, f) -> logits (n, c) of a head that was fitted as the final model's are."""
    views = train.views[: usable_views(config.augmentation, VIEWS)]
    steps = config.epochs * steps_per_epoch(len(train.labels), config)
    shown = TrainingSet(views, train.labels, train.classes)
    with open_learner(prepared.context.backbone, TOP, config, train.classes, horizon=steps, seed=seed) as learner:
        fit_final(learner, shown, config=config, steps=steps, seed=seed)
        return learner.predict_on_batch


def softmax(logits: Array) -> Array:
    exponent = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exponent / exponent.sum(axis=-1, keepdims=True)


def mean(logits: Array) -> Array:
    """The mean probabilities (n, c) of heads' logits (heads, n, c)."""
    return softmax(logits).mean(axis=0)


def load(folder: Path, case: str, smoothing: float | None = None) -> list[Kept]:
    """What was collected of a case, a dictionary for each seed."""
    files = sorted(folder.glob(f"{case}-[0-9]*{'' if smoothing is None else f'-{smoothing}'}.npz"))
    wanted = [file for file in files if file.stem.count("-") == (1 if smoothing is None else 2)]
    return [dict(np.load(file)) for file in wanted]


# Rejection and novelty


def confidences(kept: Kept) -> tuple[dict[str, dict[str, Array]], dict[str, int]]:
    """Score -> part -> a value for each picture, higher for surer; and score -> the numbers that it needs."""
    parts = [part for part in ("val", "test", "unknown", "shifted") if f"features_{part}" in kept]
    temperature = fit_temperature(kept["labels_val"], mean(kept["logits_val"]))
    found: dict[str, dict[str, Array]] = defaultdict(dict)
    sizes: dict[str, int] = defaultdict(int)
    for part in parts:
        logits, features = kept[f"logits_{part}"], kept[f"features_{part}"]
        for name, values in by_logits(logits, temperature).items():
            found[name][part] = values
        val_too = part != "val"  # the final model has learned from the validation pictures
        known = np.concatenate([kept["features_train"], *([kept["features_val"]] if val_too else [])])
        labels = np.concatenate([kept["labels_train"], *([kept["labels_val"]] if val_too else [])])
        for name, (values, size) in by_features(known, labels, features).items():
            found[name][part], sizes[name] = values, size
    right = mean(kept["logits_val"]).argmax(axis=1) == kept["labels_val"]
    best = max((name for name in found if "norm" in name), key=lambda name: auroc(found[name]["val"], right))
    found["p-norm of logits, p by validation"] = found[best]
    val = {name: np.sort(values["val"]) for name, values in found.items()}
    for second in SECONDS:
        for part in parts:
            ranks = [np.searchsorted(val[n], found[n][part]) / len(val[n]) for n in (FIRST, second)]
            found[f"lower rank, {FIRST} and {second}"][part] = np.minimum(*ranks)
            found[f"mean rank, {FIRST} and {second}"][part] = np.mean(ranks, axis=0)
    return found, sizes


def by_logits(logits: Array, temperature: float) -> dict[str, Array]:
    """Scores of heads' logits (heads, n, c)."""
    raw = mean(logits)
    probabilities = scale_probabilities(raw, temperature)
    first_two = np.sort(probabilities, axis=1)[:, -2:]
    average = logits.astype(np.float64).mean(axis=0)
    centred = average - average.mean(axis=1, keepdims=True)
    logs = np.log(np.maximum(raw, 1e-7))
    logs -= logs.mean(axis=1, keepdims=True)
    top = logits.max(axis=2, keepdims=True)
    return {
        "probability": first_two[:, 1],
        "margin": first_two[:, 1] - first_two[:, 0],
        "entropy": (probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1),
        "energy": (np.log(np.exp(logits - top).sum(axis=2)) + top[..., 0]).mean(axis=0),
        "largest logit": centred.max(axis=1),
        **{f"{p}-norm of logits": centred.max(axis=1) / (np.abs(centred) ** p).sum(axis=1) ** (1 / p) for p in POWERS},
        "2-norm of log mean probability": logs.max(axis=1) / np.linalg.norm(logs, axis=1),
        "agreement of the heads": -(softmax(logits) * (np.log(softmax(logits) + 1e-12) - np.log(raw + 1e-12)))
        .sum(axis=2)
        .mean(axis=0),
    }


def by_features(known: Array, labels: Array, features: Array) -> dict[str, tuple[Array, int]]:
    """Score -> values and size, by distance of features (n, f) to those of known pictures."""
    from sklearn.cluster import KMeans
    from sklearn.covariance import LedoitWolf

    count, width = known.shape
    classes = int(labels.max()) + 1
    average, deviation = known.mean(axis=0), known.std(axis=0) + 1e-3
    found = {}
    for name, change in (("raw", lambda x: x), ("scaled", lambda x: (x - average) / deviation)):
        here, there = unit(change(known)), unit(change(features))
        cosines = np.sort(there @ here.T, axis=1)
        found[f"nearest picture, {name}"] = (cosines[:, -1], count * width)
        found[f"tenth nearest picture, {name}"] = (cosines[:, -10], count * width)
        for centres in CENTRES:
            centre = np.concatenate(
                [
                    KMeans(centres, n_init=1, random_state=0).fit(here[labels == each]).cluster_centers_
                    for each in range(classes)
                ]
            )
            near = (there @ unit(centre).T).max(axis=1)
            found[f"nearest of {centres} centres, {name}"] = (
                near,
                len(centre) * width + 2 * width * (name == "scaled"),
            )
        if name == "scaled":
            # Rows of `axes` are the principal axes of the known pictures.
            axes = np.linalg.svd(change(known), full_matrices=False)[2]
            for kept in (64,):
                inside = np.linalg.norm(there @ axes[:kept].T, axis=1)
                found[f"share in {kept} principal axes"] = (inside, (kept + 2) * width)
    means = np.stack([known[labels == each].mean(axis=0) for each in range(classes)])
    within = np.linalg.cholesky(LedoitWolf().fit(known - means[labels]).precision_)
    total = np.linalg.cholesky(LedoitWolf().fit(known).precision_)
    to_class = np.min([(((features - each) @ within) ** 2).sum(axis=1) for each in means], axis=0)
    to_all = (((features - average) @ total) ** 2).sum(axis=1)
    found["Mahalanobis"] = (-to_class, classes * width + width**2)
    found["relative Mahalanobis"] = (to_all - to_class, classes * width + 2 * width**2)
    return found


def unit(vectors: Array) -> Array:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def auroc(values: Array, positive: Array) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, values))


def print_scores(folder: Path) -> None:
    """A table for each case: every score, the mean over the seeds."""
    for case in CASES:
        rows: dict[str, list[list[float]]] = defaultdict(list)
        sizes: dict[str, int] = {}
        for kept in load(folder, case):
            scores, sizes = confidences(kept)
            right = {p: mean(kept[f"logits_{p}"]).argmax(axis=1) == kept[f"labels_{p}"] for p in ("val", "test")}
            for name, values in scores.items():
                row = [auroc(values["test"], right["test"])]
                for wanted in (0.95, 0.99):
                    answered = values["test"] >= threshold(values["val"], right["val"], wanted, extra=0)
                    row += [answered.mean(), right["test"][answered].mean() if answered.any() else np.nan]
                for known, part in (("test", "unknown"), ("test", "shifted"), ("shifted", "unknown")):
                    if known in values and part in values:
                        both = np.concatenate([values[known], values[part]])
                        row.append(auroc(both, np.arange(len(both)) < len(values[known])))
                if "unknown" in values:
                    lowest = np.quantile(values["val"], 0.05)
                    row += [float((values[part] < lowest).mean()) for part in ("unknown", "test")]
                rows[name].append(row)
        table = [(n, f"{sizes.get(n, 0):,}", *(f"{x:.3f}" for x in np.nanmean(row, axis=0))) for n, row in rows.items()]
        header = ["score", "numbers", "right/wrong", "answered at 95 %", "precision", "answered at 99 %", "precision"]
        extra = {
            "trashnet": ["unknown", "shifted", "unknown among shifted", "flagged at 5 %", "of known"],
            "wid": [],
            "wid_six": ["unknown", "flagged at 5 %", "of known"],
        }
        print(f"\n{case}, {len(load(folder, case))} seeds\n")
        print("\n".join(markdown_table([*header, *extra[case]], table)))


def print_left_out(case: str, seeds: int) -> None:
    """Each class of a data set in turn unknown, from the same collection as the known ones. One head, not six."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        prepared, everything = load_features(case, seed)
        names, splits = prepared.context.classes, prepared.splits
        for number, name in enumerate(names):
            labels = relabel(everything.labels, [name != each for each in names])
            train = np.array([row for row in (*splits.train, *splits.val) if labels[row] >= 0])
            known = TrainingSet(everything.views, labels, len(names) - 1).select(train)
            features = everything.views[0].take(np.array(splits.test))
            logits = fit_head(prepared, known, MEMBERS[1], seed)(features)[None]
            scores = by_logits(logits, 1.0)
            scores |= {
                each: values
                for each, (values, _) in by_features(
                    known.views[0].take(np.arange(len(train))), known.labels, features
                ).items()
            }
            unknown = everything.labels[list(splits.test)] == number
            for second in ("nearest picture, raw", "nearest of 20 centres, raw"):
                pair = [np.searchsorted(np.sort(scores[n][~unknown]), scores[n]) for n in (FIRST, second)]
                scores[f"lower rank, {FIRST} and {second}"] = np.minimum(*pair)
                scores[f"mean rank, {FIRST} and {second}"] = np.mean(pair, axis=0)
            for each, values in scores.items():
                rows[each][name].append(auroc(values, ~unknown))
    header = ("score", *prepared.context.classes, "mean", "worst")
    table = []
    for score, found in rows.items():
        means = [float(np.mean(values)) for values in found.values()]
        table.append((score, *(f"{value:.3f}" for value in (*means, np.mean(means), min(means)))))
    print("\n".join(markdown_table(header, table)))


# The threshold


def threshold(values: Array, right: Array, wanted: float, *, extra: int) -> float:
    """The lowest value above which (errors + extra) / (answers + extra) is at most 1 - wanted; infinite without one."""
    order = np.argsort(-values, kind="stable")
    errors, answers = np.cumsum(~right[order]), np.arange(1, len(values) + 1)
    fine = np.flatnonzero((errors + extra) / (answers + extra) <= 1 - wanted + 1e-12)
    return float(values[order[fine[-1]]]) if len(fine) else np.inf


def bounded(values: Array, right: Array, wanted: float) -> float:
    """The lowest value above which precision is at least `wanted`, at a confidence of 90 % by the binomial bound."""
    from scipy.stats import beta

    order = np.argsort(-values, kind="stable")
    errors, answers = np.cumsum(~right[order]), np.arange(1, len(values) + 1)
    fine = np.flatnonzero(beta.ppf(0.9, errors + 1, answers - errors) <= 1 - wanted)
    return float(values[order[fine[-1]]]) if len(fine) else np.inf


RULES: dict[str, Callable[[Array, Array, float], float]] = {
    "plain": lambda *of: threshold(*of, extra=0),
    "one error more": lambda *of: threshold(*of, extra=1),
    "binomial bound": bounded,
}


def print_rule(folder: Path) -> None:
    """What the rules for the threshold come to on the test pictures.

    Also without refitting: validation and test pictures, which those models did not see, dealt out anew many times.
    """
    rng = np.random.default_rng(0)
    for case in CASES:
        refitted: Found = defaultdict(list)
        dealt: Found = defaultdict(list)
        for kept in load(folder, case):
            temperature = fit_temperature(kept["labels_val"], mean(kept["logits_val"]))

            def judge(part: str, labels: Array) -> tuple[Array, Array]:
                probabilities = scale_probabilities(mean(kept[part]), temperature)  # noqa: B023
                return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels

            val = judge("logits_val", kept["labels_val"])
            apply_rules(val, judge("logits_test", kept["labels_test"]), refitted)
            both = [
                np.concatenate(each) for each in zip(val, judge("logits_val_test", kept["labels_test"]), strict=True)
            ]
            for _ in range(DRAWS):
                order = rng.permutation(len(both[0]))
                here, there = order[: len(val[0])], order[len(val[0]) :]
                apply_rules((both[0][here], both[1][here]), (both[0][there], both[1][there]), dealt)
        print(f"\n{case}\n")
        print_found(refitted)
        print(f"\n{case}, dealt out anew {DRAWS} times for each seed\n")
        print_found(dealt)


def apply_rules(val: tuple[Array, Array], test: tuple[Array, Array], found: Found) -> None:
    """Adds right answers, answers and pictures of a test to `found`; val, test: confidence, and whether it is right."""
    for wanted in WANTED:
        for name, rule in RULES.items():
            answered = test[0] >= rule(*val, wanted)
            found[wanted, name].append((int(test[1][answered].sum()), int(answered.sum()), len(answered)))


def print_found(found: Found) -> None:
    """A table of (right answers, answers, pictures) of each run."""
    table = []
    for (wanted, name), runs in sorted(found.items(), key=lambda item: item[0][0]):
        total, answers, all_of = np.sum(runs, axis=0)
        each = [right / answered for right, answered, _ in runs if answered]
        met = np.mean([not answered or right / answered >= wanted for right, answered, _ in runs])
        lowest = f"{np.quantile(each, 0.05):.3f}" if each else "-"
        silent = np.mean([not answered for _, answered, _ in runs])
        row = (f"{total / max(1, answers):.4f}", lowest, f"{met:.2f}", f"{answers / all_of:.3f}", f"{silent:.2f}")
        table.append((f"{wanted:.0%}", name, *row))
    header = ("wanted", "rule", "precision", "5 % quantile", "runs that keep it", "answered", "runs without answers")
    print("\n".join(markdown_table(header, table)))


# Label smoothing


def print_smoothing(folder: Path) -> None:
    """What label smoothing does to otherwise equal heads: to each alone (their mean) and to the mean of all."""
    table = []
    for case in CASES:
        for kind in ("one head", "mean of all"):
            for smoothing in SMOOTHINGS:
                runs = load(folder, case, smoothing)
                heads = len(SMOOTHED) if kind == "one head" else 1
                measured = [
                    measure_head(kept, slice(n, n + 1) if kind == "one head" else slice(None))
                    for kept in runs
                    for n in range(heads)
                ]
                if measured:
                    cells = [f"{value:.3f}" for value in np.mean(measured, axis=0)]
                    table.append((case, len(runs), kind, smoothing, *cells))
    header = ("case", "seeds", "what", "smoothing", "macro F1", "temperature", "log loss", "calibration error")
    more = ("AUROC, probability", "AUROC, 2-norm", "AUROC, best", "risk, probability", "risk, 2-norm")
    last = ("answered at 95 %", "precision", "answered at 99 %", "precision")
    print("\n".join(markdown_table([*header, *more, *last], [tuple(map(str, row)) for row in table])))


def measure_head(kept: Kept, heads: slice) -> list[float]:
    """Scores on the test pictures of the mean of these heads, at a temperature."""
    val, test = (kept[f"logits_{part}"][heads] for part in ("val", "test"))
    temperature = fit_temperature(kept["labels_val"], mean(val))
    calibrated = scale_probabilities(mean(test), temperature)
    right, val_right = calibrated.argmax(axis=1) == kept["labels_test"], mean(val).argmax(axis=1) == kept["labels_val"]
    scores, val_scores = by_logits(test, temperature), by_logits(val, temperature)
    norms = [f"{power}-norm of logits" for power in POWERS]
    best = max([FIRST, *norms], key=lambda name: auroc(val_scores[name], val_right))
    row = [
        metric_value("macro_f1", kept["labels_test"], calibrated),
        temperature,
        log_loss(kept["labels_test"], calibrated),
        measure_calibration(kept["labels_test"], calibrated).error,
        *(auroc(scores[name], right) for name in (FIRST, "2-norm of logits", best)),
    ]
    row += [risk(scores[name], right) for name in (FIRST, "2-norm of logits")]
    for wanted in (0.95, 0.99):
        answered = scores[FIRST] >= threshold(val_scores[FIRST], val_right, wanted, extra=0)
        row += [answered.mean(), right[answered].mean() if answered.any() else 1.0]
    return row


def risk(values: Array, right: Array) -> float:
    """The share of errors among the surest predictions, the mean over all numbers of them (AURC)."""
    wrong = ~right[np.argsort(-values, kind="stable")]
    return float((wrong.cumsum() / np.arange(1, len(wrong) + 1)).mean())


# One head for six


def distil(case: str, seed: int, folder: Path) -> Row:
    """Macro F1, and log loss, on the test pictures of the heads, of their mean, and of heads that learn from it."""
    kept = dict(np.load(folder / f"{case}-{seed}.npz"))
    prepared, everything = load_features(case, seed)
    everything = everything.select(kept["rows"])
    features, labels = kept["features_test"], kept["labels_test"]
    heads = [fit_head(prepared, everything, each, 1000 * seed + 10 * n + 1) for n, each in enumerate(MEMBERS)]

    def teach(inputs: Array, rows: Array, shares: Array) -> Array:
        return mean(np.stack([predict(inputs) for predict in heads]))

    def teach_labels(inputs: Array, rows: Array, shares: Array) -> Array:
        return shares @ np.eye(everything.classes)[everything.labels[rows]]

    best = max(
        range(len(MEMBERS)), key=lambda n: metric_value("macro_f1", kept["labels_val"], mean(kept["logits_val"][[n]]))
    )
    found = {
        "best head by validation": kept["logits_test"][[best]],
        "mean of six": kept["logits_test"],
        "student, labels": learn(prepared, everything, teach_labels, seed)(features)[None],
        "student, mean of six": learn(prepared, everything, teach, seed)(features)[None],
    }
    if "logits_folds" in kept:
        held_out = mean(kept["logits_folds"])
        teach_out_of_fold = learn(prepared, everything, lambda inputs, rows, shares: held_out[rows], seed)
        found["student, mean of six out of fold"] = teach_out_of_fold(features)[None]
    long: Row = {"mix": True, "epochs": 120, "dropout": 0.0}
    found["student, labels, mixed pictures, 120 epochs"] = learn(prepared, everything, teach_labels, seed, **long)(
        features
    )[None]
    found["student, mean of six, mixed pictures, 120 epochs"] = learn(prepared, everything, teach, seed, **long)(
        features
    )[None]
    each = np.mean([metric_value("macro_f1", labels, mean(kept["logits_test"][[n]])) for n in range(len(MEMBERS))])
    row: Row = {"case": case, "seed": seed, "one of six, mean": (each,)}
    for name, logits in found.items():
        predicted = mean(logits)
        right = predicted.argmax(axis=1) == labels
        row[name] = (
            metric_value("macro_f1", labels, predicted),
            log_loss(labels, predicted),
            auroc(predicted.max(axis=1), right),
        )
    for name, value in row.items():
        print(f"{name}:", " ".join(f"{x:.4f}" for x in value) if isinstance(value, tuple) else value, flush=True)
    return row


def learn(
    prepared: Prepared,
    train: TrainingSet,
    teach: Callable[[Array, Array, Array], Array],
    seed: int,
    *,
    mix: bool = False,
    **changed: Any,
) -> Callable[[Array], Array]:
    """Fits a head to what `teach` gives: soft targets (n, c) of features (n, f), pictures (n,), their shares (n, n)."""
    config = MEMBERS[1].model_copy(update={"label_smoothing": 0.0} | changed)
    steps = steps_per_epoch(len(train.labels), config)
    rng = np.random.default_rng(seed)
    views = train.views[: usable_views(1.0 if mix else config.augmentation, VIEWS)]
    inputs = np.stack([view.take(np.arange(len(view))) for view in views])
    weights = np.ones(config.batch_size, np.float32)
    horizon = config.epochs * steps
    with open_learner(prepared.context.backbone, TOP, config, train.classes, horizon=horizon, seed=seed) as learner:
        for _ in range(config.epochs):
            order = rng.permutation(len(train.labels))[: steps * config.batch_size]
            for rows in np.split(order, steps):
                batch = inputs[rng.integers(0, len(views), len(rows)), rows]
                shares = np.eye(len(rows), dtype=np.float32)
                if mix:  # between pictures, too; labels are mixed likewise
                    share = rng.random((len(rows), 1), np.float32)
                    shares = share * shares + (1 - share) * shares[rng.permutation(len(rows))]
                    batch = shares @ batch
                targets = teach(batch, rows, shares).astype(np.float32)
                learner.train_on_batch(batch, targets, sample_weight=weights)
        return learner.predict_on_batch


# Sets of classes


def print_sets(folder: Path) -> None:
    """How often sets of classes hold the true one, and how large they are: split conformal prediction."""
    table = []
    for case in CASES:
        for wanted in (0.9, 0.95):
            found: dict[str, list[tuple[float, ...]]] = defaultdict(list)
            for kept in load(folder, case):
                temperature = fit_temperature(kept["labels_val"], mean(kept["logits_val"]))
                val, test = (scale_probabilities(mean(kept[f"logits_{p}"]), temperature) for p in ("val", "test"))
                for name, score in (("LAC", lac), ("APS", aps), ("LAC, a threshold for each class", lac)):
                    strange, true = score(val), kept["labels_val"]
                    strange_true = strange[np.arange(len(true)), true]
                    if "each" in name:
                        classes = range(test.shape[1])
                        highest = np.array([conformal_quantile(strange_true[true == each], wanted) for each in classes])
                    else:
                        highest = conformal_quantile(strange_true, wanted)
                    inside = score(test) <= highest
                    inside[np.arange(len(test)), test.argmax(axis=1)] = True  # never empty
                    labels = kept["labels_test"]
                    holds = inside[np.arange(len(labels)), labels]
                    sizes = inside.sum(axis=1)
                    worst = min(holds[labels == each].mean() for each in np.unique(labels))
                    found[name].append((holds.mean(), worst, sizes.mean(), (sizes == 1).mean(), (sizes > 2).mean()))
            for name, runs in found.items():
                cells = [f"{value:.3f}" for value in np.mean(runs, axis=0)]
                table.append((case, f"{wanted:.0%}", name, *cells, f"{min(run[0] for run in runs):.3f}"))
    header = (
        "case",
        "wanted",
        "sets",
        "coverage",
        "worst class",
        "mean size",
        "of one",
        "of three and more",
        "worst run",
    )
    print("\n".join(markdown_table(header, table)))


def conformal_quantile(values: Array, wanted: float) -> float:
    """The value that a new one does not exceed with probability `wanted`; infinite where there are too few."""
    place = int(np.ceil((len(values) + 1) * wanted))
    return float(np.sort(values)[place - 1]) if place <= len(values) else np.inf


def lac(probabilities: Array) -> Array:
    """Sadinle et al. 2019, "Least ambiguous set-valued classifiers"."""
    return 1 - probabilities


def aps(probabilities: Array) -> Array:
    """Romano et al. 2020, "Classification with valid and adaptive coverage": the sum of all likelier classes.

    Without the class itself: else the surest predictions are the first to be left without any class.
    """
    order = np.argsort(-probabilities, axis=1)
    summed = np.take_along_axis(probabilities, order, axis=1).cumsum(axis=1)
    return np.take_along_axis(summed, np.argsort(order, axis=1), axis=1) - probabilities


if __name__ == "__main__":
    silence_tensorflow()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["collect", "scores", "left_out", "rule", "smoothing", "distil", "sets"])
    parser.add_argument("--case", choices=CASES, default="trashnet")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--smoothing", action="store_true", help="collect with each label smoothing in turn")
    parser.add_argument(
        "--folds", action="store_true", help="predict training pictures out of fold, too: five fits more"
    )
    parser.add_argument("--folder", type=Path, default=Path("confidence"))
    asked = parser.parse_args()
    if asked.part == "collect":
        for seed in range(asked.seeds):
            for smoothing in SMOOTHINGS if asked.smoothing else (None,):
                file = asked.folder / f"{asked.case}-{seed}{'' if smoothing is None else f'-{smoothing}'}.npz"
                if not file.exists():
                    collect(asked.case, seed, smoothing, file, out_of_fold=asked.folds and smoothing is None)
    elif asked.part == "left_out":
        print_left_out(asked.case, asked.seeds)
    elif asked.part == "distil":
        for seed in range(asked.seeds):
            distil(asked.case, seed, asked.folder)
    else:
        parts = {
            "scores": print_scores,
            "rule": print_rule,
            "smoothing": print_smoothing,
            "sets": print_sets,
        }
        parts[asked.part](asked.folder)
