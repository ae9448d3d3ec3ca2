"""Which rule picks the final model best? Studies of heads on several data sets, every rule on the same trials.

    python benchmarks/selection.py collect --case trashnet --seed 0 --folder selection
    python benchmarks/selection.py compare --folder selection --seeds 0 1 2

`collect` runs a study and keeps what rules may see (validation scores; probabilities of validation pictures by the
trials and by new fits of the best ones; with --cross, out of fold) and what they are judged by (each trial's
probabilities of the test pictures after refitting). `compare` applies the rules. It reads the test set for every trial,
as no study may; rules were developed on DEVELOPED and confirmed on the others with seeds 0 to 2. Seeds 3
to 5 were fresh then; seeds 6 and 7 decided, for the whole schedule.

Activations, in WASTETUNE_CACHE, are computed once for all splits of a data set.
"""

import argparse
import json
import re
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from common import folders, prepare, write_study

from wastetune.backbones.activation_store import Activations, fill_activations, open_activations
from wastetune.backbones.augmentation import view_magnitude
from wastetune.console import open_console, silence_tensorflow
from wastetune.data.index import index_folder
from wastetune.data.pixels import Pixels, open_pixels, select_pictures
from wastetune.data.splits import draw_folds
from wastetune.evaluation.calibration import fit_temperature, log_loss, measure_calibration, scale_probabilities
from wastetune.evaluation.metrics import metric_value
from wastetune.formatting import markdown_table
from wastetune.settings import cache_folder
from wastetune.storage.records import read_attrs
from wastetune.storage.study import default_trial, read_trials
from wastetune.training.config import TrialConfig
from wastetune.training.fit import ValidationSet, predict_probabilities
from wastetune.tuning.objective import cross_predict, fitted_learner, fitting_set, plain_set, run_trial, tuning_sets
from wastetune.tuning.prepare import join_study, trial_seed
from wastetune.tuning.workers.worker import run_worker

BACKBONE = {"backbone": "mobilenet_v3_small_075", "weights": "imagenet", "space": "head"}
DEVELOPED = ("trashnet", "wid_to_trashnet", "small")
CONFIRMED = ("wid", "trashnet_to_wid", "wid_by_source")
ALL = (*DEVELOPED, *CONFIRMED)
# Trials fitted again without validation pictures or parts of all; for the test pictures.
FOLDS, CANDIDATES, REFITTED = 5, 10, 20
# WID holds TrashNet: its files are numbered without a space, those of the other collections are `name (number)`.
OTHER = re.compile(r" \(\d+\)\.")
COMMON = {  # class of both -> class folders of TrashNet, of WID's other collections
    "glass": (("glass",), ("Glass",)),
    "metal": (("metal",), ("Aluminium",)),
    "paper": (("paper", "cardboard"), ("Paper and Cardboard",)),
    "plastic": (("plastic",), ("Other Plastics",)),
}


def link_case(case: str, seed: int, data: Path, folder: Path) -> Path:
    """The folder of a case's pictures, as links into the data sets."""
    if case in ("trashnet", "wid"):
        return data / case
    rng = np.random.default_rng(seed)
    for side, name, file in _files(case, data, rng):
        (folder / case / side / name).mkdir(parents=True, exist_ok=True)
        (folder / case / side / name / f"{file.parent.name}-{file.name}").symlink_to(file)
    return folder / case


def _files(case: str, data: Path, rng: np.random.Generator) -> Any:
    if case == "small":  # twenty pictures of a class to learn from, all others to test
        for name in sorted((data / "trashnet").iterdir()):
            files = sorted(name.iterdir())
            chosen = set(rng.choice(len(files), 20, replace=False))
            yield from (("train" if i in chosen else "test", name.name, file) for i, file in enumerate(files))
    elif case == "wid_by_source":
        for name in sorted((data / "wid").iterdir()):
            files = sorted(name.iterdir())
            others = [bool(OTHER.search(file.name)) for file in files]
            if 0 < sum(others) < len(files):
                # Glass is learned from the other collections, the rest from TrashNet's.
                yield from (
                    ("train" if other == (name.name == "Glass") else "test", name.name, file)
                    for file, other in zip(files, others, strict=True)
                )
            else:
                tested = rng.random(len(files)) < 0.3
                yield from (("test" if t else "train", name.name, file) for t, file in zip(tested, files, strict=True))
    else:
        sides = ("train", "test") if case == "trashnet_to_wid" else ("test", "train")
        for name, (ours, theirs) in COMMON.items():
            for part in ours:
                yield from ((sides[0], name, file) for file in sorted((data / "trashnet" / part).iterdir()))
            for part in theirs:
                files = sorted((data / "wid" / part).iterdir())
                yield from ((sides[1], name, file) for file in files if OTHER.search(file.name))


class Vectors:
    """The pooled vectors of all pictures of the data sets: the store's chunks are those of one split."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.views: dict[int, dict[str, Any]] = {}

    def look_up(self, context: Any, pictures: Any, cut: Any, view: int, *_: Any) -> Activations:
        """In place of `objective._activations`."""
        if view not in self.views:
            self.views[view] = dict(self._compute(context, cut, view))
        return Activations((np.stack([self.views[view][key] for key in pictures.keys]),))

    def _compute(self, context: Any, cut: Any, view: int) -> Any:
        for name in ("trashnet", "wid"):
            index = index_folder(self.data / name, cache=cache_folder())
            pixels = open_pixels(index, context.backbone.size, cache_folder())
            pictures = select_pictures(index, pixels, range(len(index.pictures)))
            where, magnitude = (context.store, context.backbone, pictures), view_magnitude(view, context.spec.views)
            fill_activations(*where, [cut], view, magnitude)
            vectors = open_activations(*where, cut, view, magnitude).take(np.arange(len(pictures)))
            yield from zip(pictures.keys, vectors, strict=True)


def no_pixels(index: Any, size: int, *_: Any, **__: Any) -> Pixels:
    """In place of `open_pixels` of a case, whose pictures have their vectors already."""
    return Pixels(index, size, Path())


def collect(case: str, seed: int, trials: int, folder: Path, *, crossed: bool, reshuffled: bool) -> None:
    """Runs the study of a case and writes what the rules need.

    crossed: out-of-fold probabilities too; reshuffled: each trial has its own validation part, a fifth of all pictures
    but the test set's, as in Nagler et al. 2024, "Reshuffling resampling splits can improve generalization".
    """
    data, _ = folders()
    assert data is not None, "name the folder of data sets: WASTETUNE_DATA"
    data, folder = data.resolve(), folder.resolve()
    folder.mkdir(exist_ok=True)
    links = (cache_folder() / "cases").resolve()  # in one place, so that they are indexed once
    shutil.rmtree(links / case, ignore_errors=True)
    kept: dict[int, Any] = {}

    def run(config: TrialConfig, number: int, *rest: Any) -> Any:
        with patch("wastetune.tuning.objective.tuning_sets", partial(own_parts, number) if reshuffled else tuning_sets):
            kept[number] = result = run_trial(config, number, *rest)
        return result

    def own_parts(number: int, context: Any, config: TrialConfig, bar: Any) -> Any:
        folds = draw_folds(prepared.index, rows, FOLDS, seed=trial_seed(context, number))
        everything, held_out = fitting_set(context, config, bar), np.flatnonzero(folds == 0)
        tested = ValidationSet(everything.views[0].select(held_out), everything.labels[held_out])
        return everything.select(np.flatnonzero(folds != 0)), tested

    with (
        tempfile.TemporaryDirectory() as here,
        chdir(here),
        patch("wastetune.tuning.prepare.open_pixels", no_pixels),
        patch("wastetune.tuning.objective._activations", Vectors(data).look_up),
        patch("wastetune.tuning.workers.worker.run_trial", run),
    ):
        console, started = open_console(quiet=True), [time.perf_counter()]
        pictures = link_case(case, seed, data, links)
        prepared = prepare(write_study("study", dataset=str(pictures), trials=trials, seed=seed, views=4, **BACKBONE))
        context, bar, labels = prepared.context, console.bar, prepared.context.data.val.labels
        rows = (*prepared.splits.train, *prepared.splits.val)
        study = join_study(prepared, f"sqlite:///{here}/study.db", console)
        started.append(time.perf_counter())
        run_worker(study, context, trials=trials, timeout=None, bar=bar, on_trial=lambda trial: None)
        started.append(time.perf_counter())

        default = default_trial(study)
        complete = sorted((t for t in read_trials(study) if t.state.name == "COMPLETE"), key=lambda t: -t.value)
        chosen = complete[:REFITTED]
        chosen += [default] if default.number not in [t.number for t in chosen] else []
        configs = [TrialConfig.model_validate(read_attrs(t).config) for t in chosen]
        candidates = [i for i, trial in enumerate(chosen) if i < CANDIDATES or trial.number == default.number]

        def cross(place: int, folds: Any) -> Any:
            """Out-of-fold probabilities of a trial."""
            config, number = configs[place], chosen[place].number
            return cross_predict(context, config, folds, number=number, epochs=config.epochs, bar=bar)

        only = np.repeat([-1, 0], [len(context.data.train), len(labels)])
        held_out = np.full((len(chosen), len(labels), len(context.classes)), np.nan, np.float32)
        for place in candidates:
            held_out[place] = cross(place, only)[only == 0]
        optional = {} if reshuffled else {"val": np.stack([kept[t.number].fit.probabilities for t in chosen])}
        if crossed:
            folds = draw_folds(prepared.index, rows, FOLDS, seed=seed)
            optional["cross"] = np.full((len(chosen), len(folds), len(context.classes)), np.nan, np.float32)
            for place in candidates:
                optional["cross"][place] = cross(place, folds)
        started.append(time.perf_counter())
        test = []
        for trial, config in zip(chosen, configs, strict=True):  # as `refit`, without whole models
            everything, sealed = fitting_set(context, config, bar), plain_set(context, prepared.test, config, bar)
            same = trial_seed(context, trial.number)
            with fitted_learner(context, config, everything, epochs=config.epochs, seed=same) as learner:
                test.append(predict_probabilities(learner, sealed.activations))
        seconds = np.diff([*started, time.perf_counter()])
        part = folder / f"{case}-{seed}.part.npz"
        np.savez_compressed(
            part,
            numbers=[t.number for t in chosen],
            scores=[t.value for t in chosen],
            default=default.number,
            params=json.dumps([[t.params, t.value] for t in complete]),
            held_out=held_out,
            **optional,
            test=np.stack(test),
            val_labels=labels,
            labels=np.concatenate([context.data.train.labels, labels]),
            test_labels=prepared.test.labels,
            seconds=seconds,
        )
        shutil.move(part, folder / f"{case}-{seed}.npz")
    print(case, seed, "prepare, search, new fits, refit: {:.0f}, {:.0f}, {:.0f}, {:.0f} s".format(*seconds), flush=True)


def compare(folder: Path, cases: Iterable[str], seeds: Iterable[int]) -> None:
    """Prints the scores of every rule, a column per case: the mean over its seeds, of the runs that were collected."""
    scores: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    for run in ((case, seed) for case in cases for seed in seeds):
        if not (file := folder / "{}-{}.npz".format(*run)).is_file():
            continue
        with np.load(file) as kept:
            for name, value in apply_rules(dict(kept)).items():
                scores[name][run] = value
    rows = []
    for name, values in scores.items():
        means = _by_case(values)
        row = [name, *(f"{mean:.4f}" for mean in means.values())]
        if not name.startswith("ECE"):
            gains = {run: values[run] - scores["default"][run] for run in values}
            against = [values[run] - scores["winner"][run] for run in values]
            lowest = min(_by_case(gains).values())
            summary = (np.mean(list(gains.values())), min(gains.values()), lowest, np.mean(against))
            row += [f"{value:+.4f}" for value in summary]
        rows.append(row)
    header = ("rule", *means, "minus default", "worst run", "worst case mean", "minus winner")
    print("\n".join(markdown_table(header, [(*row, *[""] * (len(header) - len(row))) for row in rows])))


def _by_case(values: dict[tuple[str, int], float]) -> dict[str, float]:
    cases: dict[str, list[float]] = defaultdict(list)
    for (case, _), value in values.items():
        cases[case].append(value)
    return {case: float(np.mean(each)) for case, each in cases.items()}


def apply_rules(kept: dict[str, Any]) -> dict[str, float]:
    """Rule -> macro F1 on the test set; and calibration errors of the mean of five."""
    test, test_labels, labels = (kept[key] for key in ("test", "test_labels", "val_labels"))
    found = {
        name: metric_value("macro_f1", test_labels, test[places].mean(axis=0)) for name, places in pick(kept).items()
    }
    five = best_and_default(kept, 5)
    raw = test[five].mean(axis=0)
    for name, key in (("folds", "cross"), ("validation", "val"), ("new fits", "held_out")):
        if key in kept:
            true = kept["labels"] if key == "cross" else labels
            temperature = fit_temperature(true, kept[key][five].mean(axis=0))
            calibrated = scale_probabilities(raw, temperature)
            found[f"ECE, temperature from {name}"] = measure_calibration(test_labels, calibrated).error
    # What the bins and the number of pictures alone make of an error of 0: labels drawn from the probabilities.
    rng = np.random.default_rng(0)
    drawn = (rng.random((50, len(calibrated), 1)) > calibrated.cumsum(axis=1)).sum(axis=2)
    drawn = np.minimum(drawn, calibrated.shape[1] - 1)  # the sum of rounded probabilities may stay below 1
    found["ECE of a perfect model, simulated"] = float(
        np.mean([measure_calibration(each, calibrated).error for each in drawn])
    )
    found["ECE, not calibrated"] = measure_calibration(test_labels, raw).error
    found["ECE, winner"] = measure_calibration(test_labels, test[0]).error
    return found


def pick(kept: dict[str, Any]) -> dict[str, list[int]]:
    """Rule -> the places of the trials whose mean it takes. It does not see the test pictures."""
    labels, held_out = kept["val_labels"], kept["held_out"]
    first, default = list(range(min(REFITTED, len(held_out)))), best_and_default(kept, 0)
    five, ten = best_and_default(kept, 5), best_and_default(kept, 10)

    def best_of(places: Iterable[int], score: Callable[[int], float]) -> list[int]:
        return [max(places, key=score)]

    smooth = predict_scores(json.loads(str(kept["params"])))

    def unless_default(places: list[int], errors: float) -> list[int]:
        """These, or the default alone where new fits score it higher by more than so many standard errors."""
        ours, theirs = held_out[places].mean(axis=0), held_out[default[0]]
        lost = _score(labels, theirs) - _score(labels, ours)
        return default if lost > errors * (errors and _standard_error(labels, ours, theirs)) else places

    scores = kept["scores"]
    error = float(np.sqrt(scores[0] * (1 - scores[0]) / len(labels)))

    def near(errors: float) -> list[int]:
        """Those of the best five, and the default, that are not below the best by more than so many errors."""
        return [place for place in five if scores[place] >= scores[0] - errors * error]

    rules = {
        "default": default,
        "winner": [0],
        **{f"mean of {most} and default": best_and_default(kept, most) for most in (3, 5, 10, 20)},
        **{
            f"mean of 5 within {errors} standard errors{name}": list(dict.fromkeys([*near(errors), *others]))
            for errors in (1, 2, 3)
            for name, others in ((", and default", default), (", default likewise", []))
        },
        "mean of 5 and default, unless default is higher": unless_default(five, 0),
        "mean of 5 and default, unless default is surely higher": unless_default(five, 1),
        "mean of 10 and default, unless default is surely higher": unless_default(ten, 1),
        "greedy, new fits, of 10 and default": pick_greedily(labels, held_out, ten),
        "highest prediction of a forest": best_of(first, lambda place: smooth[place]),
    }
    if "val" in kept:
        val = kept["val"]
        losses = [log_loss(labels, each) for each in val]
        ours, theirs = val[0], val[default[0]]
        surely = _score(labels, ours) - _score(labels, theirs) > _standard_error(labels, ours, theirs)
        rules |= {
            "greedy, validation": pick_greedily(labels, val),
            "greedy, validation, of 10 and default": pick_greedily(labels, val, ten),
            "greedy, validation, of 5 and default": pick_greedily(labels, val, five),
            "mean of 5 by log loss and default": list({*sorted(first, key=losses.__getitem__)[:5], *default}),
            "one standard error": [0] if surely else default,
        }
    if "cross" in kept:
        crossed, everything = kept["cross"], kept["labels"]
        rules |= {
            "best of five folds": best_of(ten, lambda place: _score(everything, crossed[place])),
            "lowest log loss of five folds": best_of(ten, lambda place: -log_loss(everything, crossed[place])),
            "greedy, out of fold": pick_greedily(everything, crossed, ten),
        }
    return rules


def best_and_default(kept: dict[str, Any], most: int) -> list[int]:
    """The places of the best trials, and of the default."""
    numbers = list(kept["numbers"])
    return list(dict.fromkeys([*range(min(most, len(numbers))), numbers.index(int(kept["default"]))]))


def predict_scores(trials: list[tuple[dict[str, Any], float]]) -> Any:
    """Validation scores of trials, of (parameters, score), as a random forest of all of them predicts them."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.feature_extraction import DictVectorizer

    encoded = DictVectorizer(sparse=False).fit_transform([params for params, _ in trials])
    forest = RandomForestRegressor(300, min_samples_leaf=3, random_state=0)
    return forest.fit(encoded, [score for _, score in trials]).predict(encoded)


def _score(labels: Any, probabilities: Any) -> float:
    return metric_value("macro_f1", labels, probabilities)


def _standard_error(labels: Any, one: Any, other: Any, draws: int = 1000) -> float:
    """Of the difference of two scores of the same pictures, by bootstrap."""
    rng = np.random.default_rng(0)
    rows = rng.integers(len(labels), size=(draws, len(labels)))
    return float(np.std([_score(labels[each], one[each]) - _score(labels[each], other[each]) for each in rows]))


def pick_greedily(labels: Any, probabilities: Any, places: list[int] | None = None, rounds: int = 15) -> list[int]:
    """Caruana et al. 2004, "Ensemble selection from libraries of models": with replacement, by log loss."""
    places = list(range(len(probabilities))) if places is None else places
    total, picked, best = np.zeros_like(probabilities[0]), [], (np.inf, 0)
    for size in range(1, rounds + 1):
        losses = [log_loss(labels, (total + probabilities[place]) / size) for place in places]
        picked.append(places[int(np.argmin(losses))])
        total = total + probabilities[picked[-1]]
        best = min(best, (min(losses), size))
    return picked[: best[1]]


if __name__ == "__main__":
    silence_tensorflow()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["collect", "compare"])
    parser.add_argument("--cases", "--case", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--seeds", "--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=Path("selection"))
    parser.add_argument("--cross", action="store_true", help="collect out-of-fold probabilities too; takes long")
    parser.add_argument("--reshuffle", action="store_true", help="collect a study with a validation part per trial")
    asked = parser.parse_args()
    if asked.part == "compare":
        compare(asked.folder, asked.cases, asked.seeds)
    else:
        for seed in asked.seeds:
            for case in asked.cases:
                collect(case, seed, asked.trials, asked.folder, crossed=asked.cross, reshuffled=asked.reshuffle)
