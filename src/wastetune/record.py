"""What is known of a study when it is done, as one record of plain values: what `report.json` holds."""

import platform
import shlex
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wastetune.backbone import reachable_cuts
from wastetune.data.index import contradictions, duplicate_groups
from wastetune.objective import Setting
from wastetune.prepare import Prepared
from wastetune.report import edge_findings
from wastetune.runtime import choose_runtime
from wastetune.space import bounds, searched_ranges
from wastetune.spec import StudySpec
from wastetune.storage import read_trials
from wastetune.toml_file import named_files

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

_SIDES = ("train", "val", "test")
_PACKAGES = ("wastetune", "keras", "tensorflow", "optuna", "mlflow", "numpy")


def describe_study(study: "optuna.Study", prepared: Prepared, best: "FrozenTrial") -> dict[str, Any]:
    """Everything of the record but what was measured on the test set, and the seconds."""
    setting, splits, index = prepared.setting, prepared.splits, prepared.index
    trials = read_trials(study)
    states = [trial.state.name for trial in trials]
    config = best.user_attrs["config"]
    return {
        "study": setting.spec.name,
        "question": setting.spec.question,
        "backbone": setting.spec.backbone,
        "dataset": index.folder.resolve().name,
        "classes": list(setting.classes),
        "metric": setting.spec.metric,
        "command": render_command(setting.spec),
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
        "edges": edge_findings(config, _reachable_ranges(setting)),
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


def _reachable_ranges(setting: Setting) -> dict[str, tuple[float, float, bool]]:
    """The ranges that were searched, the depth's as it acts: from the lowest cut to the highest."""
    ranges = searched_ranges(setting.space)
    if "frozen_depth" in ranges:
        cuts = reachable_cuts(setting.backbone, *bounds(setting.space, "frozen_depth"))
        ranges["frozen_depth"] = (cuts[0].frozen_depth, cuts[-1].frozen_depth, False)
    return ranges
