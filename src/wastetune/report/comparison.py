"""The finished studies of a results folder side by side, with what others have published: text, CSV, Markdown, HTML."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from wastetune.errors import UserError, suggest
from wastetune.files import write_whole
from wastetune.formatting import aligned, markdown_table, render_duration
from wastetune.report.html import render_template
from wastetune.report.published import Published, published_for
from wastetune.report.results import Report, read_report

HEADER = (
    "study",
    "backbone",
    "data set",
    "accuracy",
    "precision",
    "recall",
    "F1",
    "trials",
    "time",
    "parameters, file",
)
_TEXT_COLUMNS = 3  # before the first number
_NOTE = "Precision, recall and F1 are macro averages. Published figures are quoted: other splits, other protocols."


@dataclass(frozen=True)
class Row:
    """A study's result on its test set, or a published one; None where a value is not known."""

    study: str | None  # None: published
    backbone: str
    dataset: str
    accuracy: float
    precision: float | None
    recall: float | None
    f1: float | None
    trials: int | None = None
    seconds: float | None = None
    parameters: int | None = None  # of the whole model
    megabytes: float | None = None  # of its file
    source: str = ""  # of a published one


def compare_studies(results: Path, names: Sequence[str] = ()) -> list[Row]:
    """A row for each finished study and then for each published result, by data set, the best first.

    Names may be patterns such as 'inception_*'; without names, all studies. UserError where a name has no report.
    """
    reports = _read_reports(results, names)
    rows: list[Row] = []
    for dataset in sorted({report.dataset for report in reports.values()}):
        here = {name: report for name, report in reports.items() if report.dataset == dataset}
        ours = [_row(name, report) for name, report in here.items()]
        published = dict.fromkeys(one for report in here.values() for one in published_for(report))
        rows += sorted(ours, key=lambda row: -(row.f1 or 0.0))
        rows += sorted(map(_published_row, published), key=lambda row: -row.accuracy)
    return rows


def render_text(rows: Sequence[Row]) -> str:
    """The table for a terminal, with the sources of published results below."""
    sources = list(dict.fromkeys(row.source for row in rows if row.study is None))
    lines = aligned([HEADER, *(_cells(row, _mark(row, sources)) for row in rows)], left=_TEXT_COLUMNS)
    below = [f"[{number}] {source}" for number, source in enumerate(sources, start=1)]
    return "\n".join([*lines, "", _NOTE, *below])


def render_csv(rows: Sequence[Row]) -> str:
    """The table for programs: fractions, seconds, megabytes, and a column that marks published rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [key for key in Row.__dataclass_fields__ if key != "source"]
    writer.writerow([*keys, "published", "source"])
    for row in rows:
        values = ["" if (value := getattr(row, key)) is None else value for key in keys]
        writer.writerow([*values, "yes" if row.study is None else "no", row.source])
    return text.getvalue()


def render_markdown(rows: Sequence[Row]) -> str:
    """The table for a README."""
    lines = markdown_table((*HEADER, "source"), [(*_cells(row), row.source) for row in rows], left=_TEXT_COLUMNS)
    return "\n".join([*lines, "", _NOTE]) + "\n"


def render_html(rows: Sequence[Row]) -> str:
    """The table as a self-contained page."""
    return render_template(
        "compare.html", header=HEADER, words=_TEXT_COLUMNS, note=_NOTE, rows=[(row, _cells(row)) for row in rows]
    )


WRITERS = {".csv": render_csv, ".md": render_markdown, ".html": render_html}


def check_suffix(path: Path) -> None:
    """UserError for a suffix that cannot be written."""
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"--output {path} must end in {', '.join(WRITERS)}")


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Writes the table in the format of the file's suffix: .csv, .md or .html."""
    text = WRITERS[path.suffix.lower()](rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def _read_reports(results: Path, names: Sequence[str]) -> dict[str, Report]:
    folders = sorted(path for path in results.iterdir() if path.is_dir()) if results.is_dir() else []
    reports = {folder.name: report for folder in folders if (report := read_report(folder))}
    if not reports:
        raise UserError(f"there is no finished study in {results}; run one, or see --results")
    chosen = dict.fromkeys(found for name in names for found in _matching(name, reports, results))
    return {name: reports[name] for name in (chosen or reports)}


def _matching(name: str, reports: Mapping[str, Report], results: Path) -> Iterator[str]:
    wanted = Path(name).stem if name.endswith(".toml") else name
    found = [wanted] if wanted in reports else [one for one in reports if fnmatchcase(one, wanted)]
    if not found:
        raise UserError(f"there is no report of a study {name!r} in {results}; {suggest(wanted, reports)}")
    yield from found


def _row(name: str, report: Report) -> Row:
    test, model = report.test, report.model
    return Row(
        study=name,
        backbone=report.backbone,
        dataset=report.dataset,
        accuracy=test.accuracy,
        precision=test.precision_macro,
        recall=test.recall_macro,
        f1=test.f1_macro,
        trials=report.trials.complete + report.trials.pruned,
        seconds=report.seconds.total,
        parameters=model.parameters if model else None,
        megabytes=round(model.bytes / 1e6, 1) if model else None,
    )


def _published_row(one: Published) -> Row:
    model = one.model + (f" ({one.note})" if one.note else "")
    return Row(None, model, one.dataset, one.accuracy, one.precision, one.recall, one.f1, source=one.source)


def _mark(row: Row, sources: Sequence[str]) -> str:
    return "" if row.study is not None else f" [{sources.index(row.source) + 1}]"


def _cells(row: Row, mark: str = "") -> tuple[str, ...]:
    return (
        f"published{mark}" if row.study is None else row.study,
        row.backbone,
        row.dataset,
        *("" if value is None else f"{value:.4f}" for value in (row.accuracy, row.precision, row.recall, row.f1)),
        "" if row.trials is None else str(row.trials),
        "" if row.seconds is None else render_duration(row.seconds),
        _size(row),
    )


def _size(row: Row) -> str:
    parts = [] if row.parameters is None else [f"{row.parameters / 1e6:.1f} M"]
    return ", ".join(parts + ([] if row.megabytes is None else [f"{row.megabytes:.1f} MB"]))
