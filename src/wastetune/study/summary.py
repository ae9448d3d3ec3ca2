"""The report of a study, from its trials and its final model."""

import hashlib
import json
import math
import platform
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune.backbones.backbone import reachable_cuts
from wastetune.backbones.runtime import choose_runtime
from wastetune.console import Console
from wastetune.data.index import contradictions, duplicate_groups
from wastetune.errors import UserError
from wastetune.files import remove
from wastetune.models.bundle import MODEL_FILE, save_description, save_model
from wastetune.models.parity import FOLDER as EXPORTS
from wastetune.report.html import FILE as PAGE
from wastetune.report.html import MISTAKES, write_page
from wastetune.report.predictions import Predictions, confident_mistakes, read_predictions, write_predictions
from wastetune.report.results import read_report
from wastetune.report.text import write_report
from wastetune.search.history import read_history
from wastetune.search.space import bounds, searched_ranges
from wastetune.storage.study import best_trial, default_trial, get_study_attr, read_trials, set_study_attr
from wastetune.study.prepare import Prepared, TrialContext
from wastetune.study.refit import RefitResult, refit
from wastetune.study.spec import StudySpec
from wastetune.toml_file import named_files
from wastetune.training.config import TrialConfig
from wastetune.training.evaluation import gain_intervals, scores_dict
from wastetune.training.fit import TrainingFailed

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_SIDES = ("train", "val", "test")
_PACKAGES = ("wastetune", "keras", "tensorflow", "optuna", "mlflow", "numpy")


def describe_study(study: "optuna.Study", prepared: Prepared, best: "FrozenTrial") -> dict[str, Any]:
    """Everything of the record but what was measured on the test set, and the seconds."""
    context, splits, index = prepared.context, prepared.splits, prepared.index
    trials = read_trials(study)
    states = [trial.state.name for trial in trials]
    config = best.user_attrs["config"]
    return {
        "study": context.spec.name,
        "question": context.spec.question,
        "backbone": context.spec.backbone,
        "dataset": index.folder.resolve().name,
        "classes": list(context.classes),
        "metric": context.spec.metric,
        "command": render_command(context.spec),
        "begun_with": prepared.fingerprint,
        "class_counts": _class_counts(prepared),
        "left_out": len(splits.left_out),
        "counts": {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)},
        "trials": {
            "complete": states.count("COMPLETE"),
            "pruned": states.count("PRUNED"),
            "failed": states.count("FAIL"),
        },
        "default_number": next((t.number for t in trials if t.user_attrs.get("default") and t.value is not None), 0),
        "best": {"number": best.number, "score": best.value, "config": config},
        "edges": edge_findings(config, _reachable_ranges(context)),
        "problems": [{"path": problem.path, "what": problem.what} for problem in index.problems],
        "duplicates": sum(len(group) - 1 for group in duplicate_groups(index)),
        "contradictions": len(contradictions(index)),
    }


def render_command(spec: StudySpec) -> str:
    """What a person types to have this study again."""
    by_name = named_files("studies").get(spec.name) == Path(spec.source)
    words = ("wastetune", "run", "--study", spec.name if by_name else spec.source)
    return shlex.join([*words, "--trials", str(spec.trials), "--seed", str(spec.seed)])


def package_versions() -> dict[str, str]:
    """The versions that a result may depend on; OpenVINO's where it runs the trunks."""
    packages = (*_PACKAGES, "openvino") if choose_runtime() == "openvino" else _PACKAGES
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def count_seconds(study: "optuna.Study", preparing: float, retraining: float) -> dict[str, float]:
    """Where the time of a study went, over all of its runs."""
    trials = read_trials(study)
    activations = sum(trial.user_attrs.get("activation_seconds", 0.0) for trial in trials)
    spent = sum(trial.duration.total_seconds() for trial in trials if trial.duration)
    parts = {
        "preparing": preparing,
        "activations": activations,
        "trials": spent - activations,
        "retrain": retraining,
    }
    return {name: round(value, 2) for name, value in {**parts, "total": sum(parts.values())}.items()}


def _class_counts(prepared: Prepared) -> dict[str, dict[str, int]]:
    """Class -> pictures on each side of the split."""
    index, splits = prepared.index, prepared.splits
    counts = {side: Counter(index.pictures[row].label for row in getattr(splits, side)) for side in _SIDES}
    return {name: {side: counts[side][label] for side in _SIDES} for label, name in enumerate(index.classes)}


def _reachable_ranges(context: TrialContext) -> dict[str, tuple[float, float, bool]]:
    """The ranges that were searched, the depth's as it acts: from the lowest cut to the highest."""
    ranges = searched_ranges(context.space)
    if "frozen_depth" in ranges:
        cuts = reachable_cuts(context.backbone, *bounds(context.space, "frozen_depth"))
        ranges["frozen_depth"] = (cuts[0].frozen_depth, cuts[-1].frozen_depth, False)
    return ranges


def finish(
    study: "optuna.Study", prepared: Prepared, folder: Path, console: Console, preparing: float
) -> dict[str, Any]:
    """The report, written to its folder; the winner is retrained unless that was done."""
    best, default = best_trial(study), default_trial(study)
    assert best is not None
    assert default is not None
    fingerprint = hashlib.sha256(json.dumps(prepared.fingerprint).encode()).hexdigest()[:16]
    before = read_report(folder) if (folder / "bundle" / MODEL_FILE).exists() else None
    answered = (fingerprint, best.number, best.user_attrs["config"])
    if before and (before["fingerprint"], before["best"]["number"], before["best"]["config"]) == answered:
        # The last two came later than the others: a report may be without them.
        kept = ("test", "default_test", "retrain", "test_opened_for", "versions", "gain", "model")
        measured = {key: before[key] for key in kept if key in before}
        retrain_seconds = before["seconds"]["retrain"]
    else:
        console.print("retraining the default configuration and the winner on train + validation")
        opened = list(dict.fromkeys([*get_study_attr(study, "test_opened_for", ()), best.number]))
        set_study_attr(study, "test_opened_for", opened)
        context, test = prepared.context, prepared.test

        def train_again(trial: "FrozenTrial", keep: Callable[[Any], None]) -> RefitResult:
            number, attrs = trial.number, trial.user_attrs
            try:
                return refit(context, test, number=number, attrs=attrs, bar=console.bar, keep=keep)
            except TrainingFailed as error:
                raise UserError(f"retraining trial {number} came to nothing: {error}; the trials are kept") from error

        beside = None if best.number == default.number else train_again(default, lambda model: None)
        winner = train_again(best, lambda model: save_model(folder / "bundle", model))
        remove(folder / EXPORTS)  # they are of another winner
        beside = beside or winner
        paths = tuple(prepared.index.pictures[row].path for row in prepared.splits.test)
        said, by_default = winner.probabilities, beside.probabilities
        write_predictions(Predictions(context.classes, paths, test.labels, said, by_default.argmax(axis=1)), folder)
        measured = {
            "test": scores_dict(winner.scores),
            "default_test": scores_dict(beside.scores),
            "retrain": {"epochs": winner.epochs, "largest_difference": winner.largest_difference},
            "test_opened_for": opened,
            "versions": package_versions(),
            "gain": gain_intervals(test.labels, said, by_default),
            "model": {
                "parameters": winner.parameters,
                "trained": best.user_attrs.get("trainable_parameters"),
                "bytes": (folder / "bundle" / MODEL_FILE).stat().st_size,
            },
        }
        retrain_seconds = winner.seconds + (0.0 if beside is winner else beside.seconds)
    report = {
        **describe_study(study, prepared, best),
        **measured,
        "seconds": count_seconds(study, preparing, retrain_seconds),
        "fingerprint": fingerprint,
    }
    if before and {**before, "seconds": None} == json.loads(json.dumps({**report, "seconds": None})):
        if not (folder / PAGE).exists():
            _write_page(before, study, prepared, folder)
        return before  # nothing is new, so not even the time it took to find that out
    write_report(report, folder)
    _write_page(report, study, prepared, folder)
    save_description(
        folder / "bundle",
        {key: report[key] for key in ("study", "backbone", "dataset", "classes", "fingerprint", "versions", "test")}
        | {"input_size": prepared.context.backbone.size, "config": report["best"]["config"]},
    )
    return report


def _write_page(report: dict[str, Any], study: "optuna.Study", prepared: Prepared, folder: Path) -> None:
    predictions = read_predictions(folder, report["classes"], report["test"]["confusion_matrix"])
    mistakes = None if predictions is None else confident_mistakes(predictions, MISTAKES)
    write_page(report, read_history(study), mistakes, prepared.index.folder, folder)


NEAR_BOUND = 0.02  # of the range; on a log scale where it is searched on one


def edge_findings(
    best_config: Mapping[str, Any], searched: Mapping[str, tuple[float, float, bool]]
) -> list[dict[str, Any]]:
    """The parameters of the best configuration that lie within 2 % of a bound of their range.

    searched: key -> (low, high, whether on a log scale). Each finding: parameter, value, bound, and `widen`:
    whether there are values beyond that bound (there is no frozen depth above 1).
    """
    findings = []
    for key, (low, high, log) in searched.items():
        value = best_config.get(key)
        if value is None or not low < high:
            continue
        start, end, at = (math.log(x) if log else x for x in (low, high, value))
        place = (at - start) / (end - start)
        for bound, distance in ((low, place), (high, 1 - place)):
            if distance <= NEAR_BOUND:
                widen = not _is_limit(key, bound)
                findings.append({"parameter": key, "value": value, "bound": bound, "widen": widen})
    return findings


def _is_limit(key: str, bound: float) -> bool:
    """Whether no configuration may lie beyond this bound."""
    field = TrialConfig.model_fields.get(key)
    limits = [getattr(rule, side, None) for rule in (field.metadata if field else []) for side in ("ge", "le")]
    return bound in limits
