"""Writes the results folder of a study."""

import json
from pathlib import Path

from wastetune.files import write_whole
from wastetune.report import html, results
from wastetune.report.figures import draw_confusion_matrix
from wastetune.report.predictions import Predictions, confident_mistakes, read_predictions, write_predictions
from wastetune.report.results import Report, read_report
from wastetune.report.text import render_markdown
from wastetune.search.history import History


def write_results(
    report: Report, predictions: Predictions | None, history: History, pictures: Path, folder: Path
) -> None:
    """Writes predictions.csv, report.md, confusion_matrix.png, report.html and report.json, each whole or not at all.

    `predictions` is None where those in the folder are still right; `pictures` is the folder of the data set. Where the
    folder has the same report already, only a lost report.html is written again.
    """
    there = read_report(folder)
    is_known = predictions is None and there is not None and there.to_dict() == report.to_dict()
    if is_known and (folder / html.FILE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    matrix, classes = report.test.confusion_matrix, report.classes
    if predictions is not None:
        write_predictions(predictions, folder)
    else:
        predictions = read_predictions(folder, classes, matrix)
    mistakes = None if predictions is None else confident_mistakes(predictions, html.MISTAKES)
    if not is_known:
        markdown = render_markdown(report)
        write_whole(folder / "report.md", lambda path: path.write_text(markdown, encoding="utf-8"))
        write_whole(folder / "confusion_matrix.png", lambda path: draw_confusion_matrix(matrix, classes, path))
    html.write_page(report, history, mistakes, pictures, folder)
    if not is_known:  # last, because a folder with this report is taken for complete
        text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n"
        write_whole(folder / results.FILE, lambda path: path.write_text(text, encoding="utf-8"))
