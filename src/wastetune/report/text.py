"""A finished study's records -> what a person reads: text, Markdown, a picture. Never trains."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wastetune.files import write_whole
from wastetune.formatting import aligned, markdown_table, render_count, render_duration, render_value, shortened
from wastetune.report.confusion_matrix import draw_confusion_matrix
from wastetune.training.metrics import METRICS

WIDTH = 100
COLUMNS = ("", "precision", "recall", "f1", "support")


def render_report(report: Mapping[str, Any]) -> str:
    """The report as plain text for a terminal, at most 100 columns wide."""
    test, classes = report["test"], list(report["classes"])
    short = {name: shortened(name, 30) for name in classes}
    rows = [(short.get(row[0], row[0]), *row[1:]) for row in class_rows(test)]
    table = aligned([COLUMNS, *rows])
    config = _config_rows(report)
    parts = [
        _wrapped([render_title(report), report["question"]]),
        _wrapped(findings(report)),
        [table[0], "", *table[1:-3], "", *table[-3:]],
        [_CONFUSION, *_confusion_lines(test["confusion_matrix"], list(short.values()))],
        [*_wrapped([best_line(report)]), *(f"  {line}" for line in aligned(config, left=3))],
        _wrapped(_facts(report)),
        _wrapped(problem_lines(report)),
    ]
    return "\n\n".join("\n".join(part) for part in parts if any(part)) + "\n"


def render_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown, with confusion_matrix.png beside it."""
    test, classes = report["test"], list(report["classes"])
    matrix = [(name, *map(str, row)) for name, row in zip(classes, test["confusion_matrix"], strict=True)]
    parts = [
        [f"# {render_title(report)}"],
        [report["question"]],
        [f"- {line}" for line in findings(report)],
        ["## Scores on the test set"],
        markdown_table(COLUMNS, class_rows(test)),
        [f"## {_CONFUSION}"],
        ["![Confusion matrix](confusion_matrix.png)"],
        markdown_table(("", *classes), matrix),
        [f"## {best_line(report)}"],
        markdown_table(("parameter", "value", ""), _config_rows(report)),
        ["## How it was made"],
        [f"- {line}" for line in [*_facts(report), *problem_lines(report)]],
    ]
    return "\n\n".join("\n".join(part) for part in parts if any(part)) + "\n"


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Writes report.json, report.md and confusion_matrix.png into the folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    markdown = render_markdown(report)
    matrix, classes = report["test"]["confusion_matrix"], report["classes"]
    write_whole(folder / "report.json", lambda path: path.write_text(text, encoding="utf-8"))
    write_whole(folder / "report.md", lambda path: path.write_text(markdown, encoding="utf-8"))
    write_whole(folder / "confusion_matrix.png", lambda path: draw_confusion_matrix(matrix, classes, path))


_CONFUSION = "Confusion matrix (rows: true class, columns: predicted class)"


def render_title(report: Mapping[str, Any]) -> str:
    """Study, backbone and data set in one line."""
    return f"{report['study']}: {report['backbone']} on {report['dataset']}"


def findings(report: Mapping[str, Any]) -> list[str]:
    """The answer in sentences: how good, how much better than the default, where the space was too small."""
    test, default = report["test"], report.get("default_test")
    metric = METRICS[report["metric"]]
    shown = dict.fromkeys([metric, METRICS["macro_f1"], METRICS["accuracy"]])
    scores = ", ".join(f"{name} {_with_interval(test, key)}" for name, key in shown)
    lines = [f"Test set: {scores}; 95 % intervals, {report['counts']['test']} pictures."]
    if report["best"]["number"] == report.get("default_number", 0):
        lines.append("Tuned against default: no trial was better than the default configuration.")
    elif default:
        key = metric[1]
        low, high = test["intervals"].get(key, (1.0, 0.0))
        gains = ", ".join(
            f"{name} {test[key]:.3f} against {default[key]:.3f} ({test[key] - default[key]:+.3f})"
            for name, key in dict.fromkeys([metric, METRICS["accuracy"]])
        )
        if span := report.get("gain", {}).get(key):
            sure = f"; 95 % interval of the difference in {metric[0]} {span[0]:+.3f} to {span[1]:+.3f}"
            doubt = f"{sure}, so chance may explain it" if span[0] <= 0 <= span[1] else sure
        elif low <= default[key] <= high:
            doubt = "; the default lies inside the interval, so chance may explain the difference"
        else:
            doubt = ""
        lines.append(f"Tuned against default: {gains}{doubt}.")
    too_small = [edge["parameter"] for edge in report.get("edges", []) if edge.get("widen", True)]
    if too_small:
        lines.append(f"On a bound of the search space: {', '.join(too_small)}; a wider space may do better.")
    return lines


def _with_interval(scores: Mapping[str, Any], key: str) -> str:
    interval = scores["intervals"].get(key)
    return f"{scores[key]:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def class_rows(scores: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The classification report as scikit-learn lays it out: classes, then accuracy and the two averages."""
    total = sum(one["support"] for one in scores["per_class"].values())
    rows = [
        (name, *(f"{one[key]:.3f}" for key in ("precision", "recall", "f1")), str(one["support"]))
        for name, one in scores["per_class"].items()
    ]
    rows.append(("accuracy", "", "", f"{scores['accuracy']:.3f}", str(total)))
    for kind in ("macro", "weighted"):
        means = (f"{scores[f'{key}_{kind}']:.3f}" for key in ("precision", "recall", "f1"))
        rows.append((f"{kind} avg", *means, str(total)))
    return rows


def _confusion_lines(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> list[str]:
    header = ("", "", *(str(number) for number in range(1, len(names) + 1)))
    rows = [
        (str(number), name, *map(str, row))
        for number, (name, row) in enumerate(zip(names, matrix, strict=True), start=1)
    ]
    lines = aligned([header, *rows], left=2)
    if max(map(len, lines)) <= WIDTH:
        return lines
    # Too many classes for a terminal: name the confusions that cost most.
    pairs = [
        (count, f"{names[i]} taken for {names[j]}: {count}")
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    worst = sorted(pairs, key=lambda pair: -pair[0])[:10]
    return [f"{len(names)} classes, see confusion_matrix.png; the most frequent confusions:"] + [
        shortened(f"  {text}", WIDTH) for _, text in worst
    ]


def best_line(report: Mapping[str, Any]) -> str:
    """Which trial won, and how it was retrained."""
    best = report["best"]
    epochs = report.get("retrain", {}).get("epochs")
    retrained = f"; retrained for {render_count(epochs, 'epoch')}" if epochs else ""
    score = f"validation {METRICS[report['metric']][0]} {best['score']:.3f}"
    return f"Best configuration: trial {best['number']}, {score}{retrained}"


def _config_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    edges = {edge["parameter"]: edge["bound"] for edge in report.get("edges", [])}
    return [
        (key, render_value(value), f"at the bound {render_value(edges[key])} of its range" if key in edges else "")
        for key, value in report["best"]["config"].items()
    ]


def _facts(report: Mapping[str, Any]) -> list[str]:
    """Counts, times and versions, each a sentence."""
    trials, seconds = report["trials"], report["seconds"]
    return [
        "Trials: " + ", ".join(f"{trials[state]} {state}" for state in ("complete", "pruned", "failed")) + ".",
        *data_facts(report),
        "Time: " + ", ".join(f"{name} {render_duration(spent)}" for name, spent in seconds.items()) + ".",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in report["versions"].items()) + ".",
        f"Fingerprint: {report['fingerprint']}.",
        *openings(report.get("test_opened_for", [])),
    ]


def data_facts(report: Mapping[str, Any]) -> list[str]:
    """The pictures, in a sentence."""
    counts, contradictions = report["counts"], report.get("contradictions", 0)
    twice = f", {contradictions} in more than one class" if contradictions else ""
    return [
        f"Pictures: {counts['train']} train, {counts['val']} validation, {counts['test']} test; "
        f"{render_count(report.get('duplicates', 0), 'duplicate')}{twice}, "
        f"{len(report.get('problems', []))} left out."
    ]


def openings(winners: Sequence[int]) -> list[str]:
    """A word of warning where the test set was looked at for more than one winner."""
    if len(winners) < 2:
        return []
    trials = ", ".join(map(str, winners))
    return [f"The test set was opened {len(winners)} times, for trials {trials}: trust it a little less each time."]


def problem_lines(report: Mapping[str, Any], most: int = 20) -> list[str]:
    """The files that were left out, each with its reason."""
    problems = [f"Left out: {one['path']}: {one['what']}" for one in report.get("problems", [])]
    rest = len(problems) - most
    return problems[:most] + ([f"... and {rest} more, see report.json"] if rest > 0 else [])


def _wrapped(lines: Iterable[str]) -> list[str]:
    return [
        part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_long_words=False)
    ]
