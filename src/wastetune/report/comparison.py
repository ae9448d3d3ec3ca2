"""The finished studies of a results folder side by side, with what others have published: text, CSV, Markdown, HTML."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from wastetune.data.splits import read_split_table
from wastetune.datasets.identity import are_same, content_digest, content_sketch
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
_SHORT = 6  # digits of a digest in a name
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
    digest: str = ""  # of the data set's pictures, where another data set has the same name


@dataclass(frozen=True)
class _Study:
    """A finished study, and what its split.csv tells of its pictures; both empty where the file is missing."""

    report: Report
    content: str
    sketch: str


def compare_studies(results: Path, names: Sequence[str] = ()) -> list[Row]:
    """A row for each finished study and then for each published result, by data set, the best first.

    A data set is known by its pictures; where several have one name, a digest tells them apart. Names may be patterns
    such as 'inception_*' and results folders; without names, all studies. UserError where a name has no report.
    """
    groups = _by_data(_read_studies(results, names))
    having = Counter(name for group in groups for name in {study.report.dataset for study in group.values()})
    rows: list[Row] = []
    for group in groups:
        digest = next((study.content for study in group.values() if study.content), "unknown")[:_SHORT]
        ours = [_row(name, each, digest if having[each.report.dataset] > 1 else "") for name, each in group.items()]
        published = dict.fromkeys(one for study in group.values() for one in published_for(study.report))
        rows += sorted(ours, key=lambda row: -(row.f1 or 0.0))
        rows += sorted(map(_published_row, published), key=lambda row: -row.accuracy)
    return rows


def _by_data(studies: Mapping[str, _Study]) -> list[dict[str, _Study]]:
    """The studies of each data set, in the order of the data sets' names."""
    groups: list[dict[str, _Study]] = []
    for name, study in sorted(studies.items(), key=lambda item: item[1].report.dataset):
        for group in groups:
            if any(_have_same_data(study, other) for other in group.values()):
                group[name] = study
                break
        else:
            groups.append({name: study})
    return groups


def _have_same_data(one: _Study, other: _Study) -> bool:
    if one.sketch and other.sketch:
        return are_same(one.sketch, other.sketch)
    return (one.report.dataset, set(one.report.classes)) == (other.report.dataset, set(other.report.classes))


def render_text(rows: Sequence[Row]) -> str:
    """The table for a terminal, with the sources of published results below."""
    sources = list(dict.fromkeys(row.source for row in rows if row.study is None))
    lines = aligned([HEADER, *(_cells(row, _mark(row, sources)) for row in rows)], left=_TEXT_COLUMNS)
    below = [f"[{number}] {source}" for number, source in enumerate(sources, start=1)]
    return "\n".join([*lines, "", *_notes(rows), *below])


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
    return "\n".join([*lines, "", *_notes(rows)]) + "\n"


def render_html(rows: Sequence[Row]) -> str:
    """The table as a self-contained page."""
    note, cells = " ".join(_notes(rows)), [(row, _cells(row)) for row in rows]
    return render_template("compare.html", header=HEADER, words=_TEXT_COLUMNS, note=note, rows=cells)


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


def _notes(rows: Sequence[Row]) -> list[str]:
    """What is to be said below a table."""
    told_apart = sorted({row.dataset for row in rows if row.digest})
    return [_NOTE] + [
        f"Different data sets are called {name!r}; the brackets hold a digest of their pictures. "
        "dataset_name in a study's file gives one a name of its own."
        for name in told_apart
    ]


def _read_studies(results: Path, names: Sequence[str]) -> dict[str, _Study]:
    """The finished studies of these names or results folders, else all in `results`; by name, elsewhere by path."""
    folders = {path.name: path for path in sorted(results.iterdir()) if path.is_dir()} if results.is_dir() else {}
    folders |= {name: Path(name) for name in names if os.sep in name and Path(name).parent != results}
    reports = {name: report for name, folder in folders.items() if (report := read_report(folder))}
    if not reports:
        raise UserError(f"there is no finished study in {results}; run one, or see --results")
    chosen = dict.fromkeys(found for name in names for found in _matching(name, reports, results))
    return {name: _open_study(folders[name], reports[name]) for name in (chosen or reports)}


def _open_study(folder: Path, report: Report) -> _Study:
    try:
        pixels = [row.pixels_sha256 for row in read_split_table(folder / "split.csv")]
    except (UserError, KeyError, TypeError, ValueError):  # results that came from elsewhere without it, or damaged
        return _Study(report, "", "")
    return _Study(report, content_digest(pixels), content_sketch(pixels))


def _matching(name: str, reports: Mapping[str, Report], results: Path) -> Iterator[str]:
    is_inside = Path(name).parent == results
    wanted = Path(name).stem if name.endswith(".toml") else Path(name).name if is_inside else name
    found = [wanted] if wanted in reports else [one for one in reports if fnmatchcase(one, wanted)]
    if not found:
        raise UserError(f"there is no report of a study {name!r} in {results}; {suggest(wanted, reports)}")
    yield from found


def _row(name: str, study: _Study, digest: str) -> Row:
    report = study.report
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
        digest=digest,
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
        f"{row.dataset} ({row.digest})" if row.digest else row.dataset,
        *("" if value is None else f"{value:.4f}" for value in (row.accuracy, row.precision, row.recall, row.f1)),
        "" if row.trials is None else str(row.trials),
        "" if row.seconds is None else render_duration(row.seconds),
        _size(row),
    )


def _size(row: Row) -> str:
    parts = [] if row.parameters is None else [f"{row.parameters / 1e6:.1f} M"]
    return ", ".join(parts + ([] if row.megabytes is None else [f"{row.megabytes:.1f} MB"]))
