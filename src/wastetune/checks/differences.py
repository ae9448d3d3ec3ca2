"""What is not as it was when a study ran: pictures, settings, weights, versions, runtime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wastetune.data.splits import SplitRow, read_split_table
from wastetune.errors import UserError
from wastetune.formatting import render_count
from wastetune.storage.study import compare_fingerprints, get_study_attr, read_study_info
from wastetune.tuning.prepare import Prepared, package_versions

if TYPE_CHECKING:
    import optuna

_PICTURES = "data and split"  # a key of the fingerprint
_NAMED = 5  # pictures of each kind


def find_differences(
    study: "optuna.Study", prepared: Prepared, folder: Path, versions: Mapping[str, str] | None = None
) -> list[str]:
    """What differs between a study as it ran and as it is prepared now, each a sentence; empty where nothing does.

    `folder` is the study's results folder, whose split.csv tells which pictures differ. `versions` are those of what is
    reproduced; without them, those that the study began with.
    """
    stored: Mapping[str, str] = get_study_attr(study, "fingerprint", {})
    info = read_study_info(study)
    then = versions or (info.tags if info else {})
    return [
        *_settings(stored, prepared.fingerprint),
        *_pictures(stored, prepared, folder),
        *_versions(then, package_versions()),
    ]


def _settings(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [
        f"{key}: {old or 'not recorded'} then, {new or 'not there'} now"
        for key, (old, new) in compare_fingerprints(then, now).items()
        if key != _PICTURES
    ]


def _pictures(stored: Mapping[str, str], prepared: Prepared, folder: Path) -> list[str]:
    if stored.get(_PICTURES) == prepared.fingerprint[_PICTURES]:
        return []
    try:
        rows = read_split_table(folder / "split.csv")
    except UserError:
        return [f"pictures or their split; which ones is not known, because {folder / 'split.csv'} is missing"]
    return compare_pictures(rows, prepared) or ["pictures or their split"]


def compare_pictures(rows: Sequence[SplitRow], prepared: Prepared) -> list[str]:
    """How the pictures differ from those of split.csv: changed, missing, new, in another class or on another side."""
    then = {row.path: row for row in rows}
    index, splits = prepared.index, prepared.splits
    side = {row: name for name in ("train", "val", "test", "left_out") for row in getattr(splits, name)}
    now = {
        each.path: SplitRow(each.path, index.classes[each.label], each.bytes_sha256, each.pixels_sha256, side[row])
        for row, each in enumerate(index.pictures)
    }
    both = [path for path in then if path in now]
    kinds = {
        "changed": [path for path in both if then[path].pixels_sha256 != now[path].pixels_sha256],
        "missing": [path for path in then if path not in now],
        "new": [path for path in now if path not in then],
        "written anew with the same pixels": [
            path
            for path in both
            if then[path].pixels_sha256 == now[path].pixels_sha256 and then[path].bytes_sha256 != now[path].bytes_sha256
        ],
        "on another side of the split": [path for path in both if then[path].split != now[path].split],
    }
    return [f"{render_count(len(paths), 'picture')} {kind}: {_some(paths)}" for kind, paths in kinds.items() if paths]


def _some(paths: Sequence[str]) -> str:
    rest = len(paths) - _NAMED
    return ", ".join(paths[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _versions(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    if not then:
        return ["versions: those of then are not recorded"]
    # OpenVINO is recorded where it runs the trunks.
    runtimes = ["openvino" if "openvino" in each else "keras" for each in (then, now)]
    lines = [] if runtimes[0] == runtimes[1] else [f"runtime of the trunk: {runtimes[0]} then, {runtimes[1]} now"]
    keys = [name for name in now if name != "wastetune" and name in then and then[name] != now[name]]
    return lines + [f"{name}: {then[name]} then, {now[name]} now" for name in keys]
