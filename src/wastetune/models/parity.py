"""Is an export still the same model, and what does it cost: the test pictures through both, size, latency."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.data.splits import read_split_table
from wastetune.errors import UserError
from wastetune.files import remove, write_whole
from wastetune.formatting import aligned
from wastetune.models.bundle import MODEL_FILE, load_description
from wastetune.models.export import FORMATS, write_export
from wastetune.models.latency import Latency, measure_latency
from wastetune.models.loading import Model, open_model
from wastetune.models.predict import predict_files
from wastetune.training.metrics import metric_value

FOLDER = "export"
FILE = "export.json"
ORIGINAL = "bundle"
THREADS = (1, 2)
# The most by which a probability may differ. Runtimes sum in other orders, which makes a hundredth of it.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Check:
    """What an export is like beside the original, on the same test pictures."""

    format: str
    file: str
    bytes: int
    pictures: int
    largest_difference: float  # in a probability
    same_class: float  # share of the pictures
    accuracy: float
    f1_macro: float
    f1_macro_lost: float
    latency: Mapping[str, Latency]  # by number of threads, of one picture


def export_study(
    results: Path, pictures: Path, formats: Sequence[str], echo: Callable[[str], None] = lambda line: None
) -> list[Check]:
    """A study's model written in each of these formats to the folder `export` in its results, and checked.

    `results` is the study's own results folder, `pictures` the folder of its data set. The first check is of the
    original, with which the others are compared. All checks are kept in export.json. UserError where a file differs
    by more than TOLERANCE, which is deleted then, or its runtime or the pictures are missing.
    """
    bundle, folder = results / "bundle", results / FOLDER
    load_description(bundle)  # says what is missing before anything is loaded
    paths, names = _test_pictures(results, pictures)
    model = open_model(bundle)
    labels = np.array([model.classes.index(name) for name in names])
    echo(f"{len(paths):,} test pictures through the original")
    original = _probabilities(model, paths)
    before = _compare(ORIGINAL, bundle / MODEL_FILE, original, original, labels)
    checks = [_timed(before, bundle)]
    for name in formats:
        echo(f"{FORMATS[name].title}: {folder / FORMATS[name].file}")
        file = write_export(bundle, name, folder)
        try:
            exported = _probabilities(open_model(file), paths)
            difference = np.abs(exported - original).max()
            if not difference <= (TOLERANCE if FORMATS[name].exact else 1.0):  # nor is it NaN
                raise UserError(
                    f"the {FORMATS[name].title} export differs from the original by {difference:.3g} in a probability "
                    f"({TOLERANCE:g} is allowed), so {file} was deleted; export to another format"
                )
            check = _compare(name, file, original, exported, labels)
        except BaseException:
            remove(file)
            raise
        checks.append(_timed(check, file))
        _keep(checks, folder)
    return checks


def read_checks(folder: Path) -> dict[str, dict[str, Any]]:
    """The checks in an export folder's export.json, by format; none where there is no such file."""
    try:
        found: dict[str, dict[str, Any]] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def render_checks(checks: Sequence[Check]) -> list[str]:
    """The checks as lines of a table."""
    latencies = (f"ms, {count} thread{'s' if count > 1 else ''} (p95)" for count in THREADS)
    header = ("", "difference", "same class", "macro F1", "lost", "MB", *latencies)
    rows = [
        (
            check.format,
            f"{check.largest_difference:.1e}",
            f"{check.same_class:.2%}",
            f"{check.f1_macro:.4f}",
            f"{check.f1_macro_lost:.4f}",
            f"{check.bytes / 1e6:.1f}",
            *(f"{each.median:.1f} ({each.p95:.1f})" for each in check.latency.values()),
        )
        for check in checks
    ]
    return aligned([header, *rows])


def export_metrics(folder: Path) -> dict[str, float]:
    """What MLflow is told of the exports in this folder: `export_<format>_<figure>`."""
    return {
        f"export_{name}_{key}": float(value)
        for name, check in read_checks(folder).items()
        for key, value in _figures(check).items()
    }


def _figures(check: Mapping[str, Any]) -> dict[str, float]:
    keys = ("bytes", "largest_difference", "same_class", "f1_macro", "f1_macro_lost")
    times = {f"ms_{count}_threads": each["median"] for count, each in check["latency"].items()}
    return {key: check[key] for key in keys} | times


def _test_pictures(results: Path, pictures: Path) -> tuple[list[Path], list[str]]:
    rows = [row for row in read_split_table(results / "split.csv") if row.split == "test"]
    return [pictures / row.path for row in rows], [row.class_name for row in rows]


def _probabilities(model: Model, paths: Sequence[Path]) -> NDArray[np.float32]:
    rows = []
    for said in predict_files(model, paths):
        if said.probabilities is None:
            raise UserError(f"a test picture is not there as it was: {said.problem}")
        rows.append(said.probabilities)
    return np.stack(rows)


def _compare(
    name: str, file: Path, original: NDArray[np.float32], exported: NDArray[np.float32], labels: NDArray[Any]
) -> Check:
    before, after = (metric_value("macro_f1", labels, each) for each in (original, exported))
    return Check(
        format=name,
        file=file.name,
        bytes=sum(each.stat().st_size for each in (file.rglob("*") if file.is_dir() else [file]) if each.is_file()),
        pictures=len(labels),
        largest_difference=float(np.abs(exported - original).max()),
        same_class=float((exported.argmax(axis=1) == original.argmax(axis=1)).mean()),
        accuracy=metric_value("accuracy", labels, exported),
        f1_macro=after,
        f1_macro_lost=before - after,
        latency={},
    )


def _timed(check: Check, model: Path) -> Check:
    return replace(check, latency={str(count): measure_latency(model, count) for count in THREADS})


def _keep(checks: Sequence[Check], folder: Path) -> None:
    """Adds these checks to those of formats that were exported before."""
    kept = {**read_checks(folder), **{check.format: asdict(check) for check in checks}}
    write_whole(folder / FILE, lambda part: part.write_text(json.dumps(kept, indent=2), encoding="utf-8"))
