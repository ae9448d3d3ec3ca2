"""Compares an export with the original on the test pictures: predictions, scores, size and latency."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.data.splits import read_split_table
from wastetune.errors import UserError
from wastetune.evaluation.metrics import metric_value
from wastetune.files import remove, write_whole
from wastetune.formatting import aligned
from wastetune.models.bundle import load_description, model_file
from wastetune.models.export import FORMATS, check_formats, write_export
from wastetune.models.latency import Latency, measure_latency
from wastetune.models.loading import Model, open_model
from wastetune.models.predict import predict_files
from wastetune.record import Record

FOLDER = "export"
FILE = "export.json"
ORIGINAL = "bundle"
THREADS = (1, 2)
# The largest difference of a probability. Runtimes add in different orders, which makes a hundredth of it.
TOLERANCE = 1e-3
MAX_LOSS = 0.01  # of macro F1 that an export may lose, unless more is allowed


class Check(Record):
    """An export compared with the original, on the same test pictures."""

    format: str
    file: str
    bytes: int
    pictures: int
    largest_difference: float  # in a probability
    same_class: float  # share of the pictures
    accuracy: float
    f1_macro: float
    f1_macro_lost: float
    latency: dict[str, Latency]  # number of threads -> of one picture


def export_study(
    results: Path,
    pictures: Path,
    formats: Sequence[str],
    echo: Callable[[str], None] = lambda line: None,
    *,
    max_loss: float = MAX_LOSS,
) -> list[Check]:
    """Checks of a study's model in each of these formats, which are written to the folder `export` in its results.

    `results` is the study's own results folder, `pictures` the folder of its data set. The first check is of the
    original. The checks are added to export.json. A file that loses more than `max_loss` of macro F1 is deleted and
    not added, and the other formats go on: see `refused`. UserError where a file of floats differs by more than
    TOLERANCE, which is deleted, too, and where its runtime or pictures are missing.
    """
    bundle, folder = results / "bundle", results / FOLDER
    load_description(bundle)  # reports a missing bundle before anything is loaded
    check_formats(bundle, formats)
    paths, names = _test_pictures(results, pictures)
    model = open_model(bundle)
    labels = np.array([model.classes.index(name) for name in names])
    echo(f"{len(paths):,} test pictures through the original")
    original, likeness = _outputs(model, paths)
    before = _compare(ORIGINAL, model_file(bundle), original, original, labels)
    checks = [_timed(before, bundle)]
    for name in formats:
        echo(f"{FORMATS[name].title}: {folder / FORMATS[name].file}")
        file = write_export(bundle, name, folder)
        try:
            exported, its_likeness = _outputs(open_model(file), paths)
            difference = max(np.abs(exported - original).max(), np.abs(its_likeness - likeness).max(initial=0.0))
            if not difference <= (TOLERANCE if FORMATS[name].exact else 1.0):  # nor is it NaN
                raise UserError(
                    f"the {FORMATS[name].title} export differs from the original by {difference:.3g} in an output "
                    f"({TOLERANCE:g} is allowed), so {file} was deleted; export to another format"
                )
            check = _compare(name, file, original, exported, labels)
        except BaseException:
            remove(file)
            raise
        checks.append(_timed(check, file))
        if check.f1_macro_lost > max_loss:
            remove(file)
        _write_checks(checks, folder, max_loss)
    return checks


def refused(checks: Sequence[Check], max_loss: float) -> list[Check]:
    """The checks of exports that lose more macro F1 than allowed; their files were deleted."""
    return [check for check in checks if check.format != ORIGINAL and check.f1_macro_lost > max_loss]


def render_losses(checks: Sequence[Check], max_loss: float) -> list[str]:
    """A sentence for each export that loses more than MAX_LOSS of macro F1, kept or not."""
    return [
        f"{check.format} loses {check.f1_macro_lost:.4f} of macro F1 on {check.pictures:,} test pictures: "
        f"{check.f1_macro:.4f} after {check.f1_macro + check.f1_macro_lost:.4f}"
        + ("; its file was deleted" if check.f1_macro_lost > max_loss else "")
        for check in refused(checks, min(max_loss, MAX_LOSS))
    ]


def read_checks(folder: Path) -> dict[str, Check]:
    """The checks in an export folder's export.json, by format; none where the file cannot be read."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {name: Check.from_dict(check) for name, check in found.items()}
    except (OSError, ValueError):
        return {}


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
    """The metrics of the exports in this folder for MLflow: `export_<format>_<metric>`."""
    return {
        f"export_{name}_{key}": float(value)
        for name, check in read_checks(folder).items()
        for key, value in _metrics(check).items()
    }


def _metrics(check: Check) -> dict[str, float]:
    keys = ("bytes", "largest_difference", "same_class", "f1_macro", "f1_macro_lost")
    times = {f"ms_{count}_threads": each.median for count, each in check.latency.items()}
    return {key: getattr(check, key) for key in keys} | times


def _test_pictures(results: Path, pictures: Path) -> tuple[list[Path], list[str]]:
    rows = [row for row in read_split_table(results / "split.csv") if row.split == "test"]
    return [pictures / row.path for row in rows], [row.class_name for row in rows]


def _outputs(model: Model, paths: Sequence[Path]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities (n, classes) and likeness (n, 1), or (n, 0) where the model does not know it."""
    rows = []
    for prediction in predict_files(model, paths):
        if prediction.probabilities is None:
            raise UserError(f"a test picture is not there as it was: {prediction.problem}")
        likeness = [] if prediction.likeness is None else [prediction.likeness]
        rows.append((prediction.probabilities, np.array(likeness, np.float32)))
    probabilities, likenesses = (np.stack(each) for each in zip(*rows, strict=True))
    return probabilities, likenesses


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
    return check.model_copy(update={"latency": {str(count): measure_latency(model, count) for count in THREADS}})


def _write_checks(checks: Sequence[Check], folder: Path, max_loss: float) -> None:
    """Adds these checks to those of formats that were exported before, but for those whose file was refused."""
    gone = {check.format for check in refused(checks, max_loss)}
    merged = {**read_checks(folder), **{check.format: check for check in checks}}
    merged = {name: check for name, check in merged.items() if name not in gone}
    text = json.dumps({name: check.to_dict() for name, check in merged.items()}, indent=2)
    write_whole(folder / FILE, lambda part: part.write_text(text, encoding="utf-8"))
