"""Studies side by side: which, in what order, and the same numbers in text, CSV, Markdown and HTML."""

import csv
import io
import json

import pytest

from support.browser import complaints
from support.reports import CLASSES, a_report, scores, write
from wastetune.datasets.catalog import KNOWN_DATASETS
from wastetune.errors import UserError
from wastetune.report.comparison import (
    compare_studies,
    render_csv,
    render_html,
    render_markdown,
    render_text,
    write_table,
)
from wastetune.report.published import PUBLISHED

TRASHNET = next(list(source.classes) for source in KNOWN_DATASETS if source.name == "trashnet")


def a_study(name, skill, **changes):
    return a_report(study=name, test=scores(skill, changes.get("classes", CLASSES)), **changes)


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    model = {"parameters": 23_851_784, "trained": 100, "bytes": 96_100_000}
    write(a_study("resnet50_wid", 0.75), folder / "resnet50_wid")
    write(a_study("inception_trashnet", 0.6, dataset="trashnet", classes=TRASHNET), folder / "inception_trashnet")
    better = a_study("resnet50_trashnet", 0.9, dataset="trashnet", classes=TRASHNET, model=model)
    write(better, folder / "resnet50_trashnet")
    (folder / "unfinished").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "report.json").write_text("{")
    return folder


def test_data_sets_in_order_ours_by_f1_then_what_is_published_for_the_same_classes(results):
    rows = compare_studies(results)
    assert [row.study for row in rows if row.study] == ["resnet50_trashnet", "inception_trashnet", "resnet50_wid"]
    published = [row for row in rows if row.study is None]
    # The wid here has other classes than the published one.
    assert len(published) == sum(one.dataset == "trashnet" for one in PUBLISHED)
    assert rows[2:-1] == published
    accuracies = [row.accuracy for row in published]
    assert accuracies == sorted(accuracies, reverse=True)
    first = rows[0]
    report = json.loads((results / "resnet50_trashnet" / "report.json").read_text())
    assert (first.accuracy, first.precision) == (report["test"]["accuracy"], report["test"]["precision_macro"])
    assert (first.recall, first.f1) == (report["test"]["recall_macro"], report["test"]["f1_macro"])
    assert (first.trials, first.seconds, first.parameters, first.megabytes) == (20, 4133.0, 23_851_784, 96.1)


def test_names_and_patterns_choose(results):
    def chosen(*names):
        return [row.study for row in compare_studies(results, names) if row.study]

    assert chosen("resnet50_wid") == ["resnet50_wid"]
    assert chosen("resnet50_*", "inception_trashnet") == ["resnet50_trashnet", "inception_trashnet", "resnet50_wid"]
    assert chosen("studies/resnet50_wid.toml") == ["resnet50_wid"]
    for unknown in ("resnet50_wd", "nothing_*", "unfinished", "broken"):
        with pytest.raises(UserError, match="there is no report of a study"):
            chosen(unknown)
    with pytest.raises(UserError, match="did you mean resnet50_wid"):
        chosen("resnet50_wd")


def test_the_text_marks_what_is_published_and_names_each_source_once(results):
    lines = render_text(compare_studies(results)).splitlines()
    assert lines[0].split() == [
        *("study", "backbone", "data", "set", "accuracy", "precision", "recall", "F1", "trials", "time"),
        *("parameters,", "file"),
    ]
    best = next(line for line in lines if "IPAM" in line)
    assert best.startswith("published [1] ")
    assert "0.9605" in best
    assert sum("PMC11479324" in line for line in lines) == 1
    assert "1 h 8 min   23.9 M, 96.1 MB" in next(line for line in lines if line.startswith("resnet50_trashnet"))
    assert max(map(len, lines)) < 150


def test_csv_has_whole_numbers_for_programs(results):
    rows = compare_studies(results)
    read = list(csv.DictReader(io.StringIO(render_csv(rows))))
    assert [float(row["accuracy"]) for row in read] == [row.accuracy for row in rows]
    assert [row["published"] for row in read] == ["no" if row.study else "yes" for row in rows]
    assert all(bool(row["source"]) == (row["published"] == "yes") for row in read)
    assert read[0]["seconds"] == "4133.0"


def test_markdown_and_html_have_a_line_per_row(results):
    rows = compare_studies(results)
    table = [line for line in render_markdown(rows).splitlines() if line.startswith("|")]
    assert len(table) == len(rows) + 2
    assert len({line.count("|") for line in table}) == 1
    page = render_html(rows)
    assert page.count("<tr") == len(rows) + 1
    assert page.count('class="published"') == sum(row.study is None for row in rows)
    assert page.count("measured here") == 3


def test_data_sets_are_told_apart_by_their_pictures_and_not_by_their_names(results):
    def put(name, dataset, pictures, skill):
        report = a_study(name, skill, dataset=dataset)
        write(report, results / name)
        rows = [f"{each}.jpg,box,b,{each},train" for each in pictures]
        header = "path,class,bytes_sha256,pixels_sha256,split"
        (results / name / "split.csv").write_text("\n".join([header, *rows]) + "\n")

    put("worse", "data", ["c1", "c2", "c3"], 0.3)
    put("better", "cans", ["c1", "c2", "c3", "c4"], 0.9)  # the same, with one picture more, under another name
    put("other", "data", ["l1", "l2", "l3"], 0.8)
    rows = compare_studies(results, ["worse", "better", "other"])
    assert [(row.study, row.dataset, bool(row.digest)) for row in rows] == [
        ("better", "cans", False),
        ("worse", "data", True),
        ("other", "data", True),
    ]
    assert rows[1].digest != rows[2].digest
    text = render_text(rows)
    assert all(f"data ({row.digest})" in text for row in rows[1:])
    assert "cans (" not in text
    for made in (text, render_markdown(rows), render_html(rows)):
        assert made.count("Different data sets are called") == 1
    assert "Different data sets" not in render_text(compare_studies(results, ["worse", "better"]))


def test_a_hostile_name_is_text(results):
    report = a_study("x", 0.5, backbone="<script>alert(1)</script>", dataset="a|b")
    write(report, results / "x")
    rows = compare_studies(results, ["x"])
    assert "<script" not in render_html(rows)
    assert "a\\|b" in render_markdown(rows)


def test_the_command_writes_what_the_file_names_say(results, tmp_path, run_cli):
    files = [tmp_path / "out" / f"table{suffix}" for suffix in (".csv", ".md", ".html")]
    outputs = [word for file in files for word in ("--output", str(file))]
    done = run_cli("compare", "resnet50_wid", *outputs)
    assert (done.returncode, done.stderr) == (0, "")
    assert "resnet50_wid" in done.stdout
    assert "inception_trashnet" not in done.stdout
    for file, start in zip(files, ("study,backbone", "| study", "<!doctype html>"), strict=True):
        assert file.read_text().startswith(start)
        assert "resnet50_wid" in file.read_text()


def test_the_html_table_opens_without_complaint_or_request(browser, results, tmp_path):
    write_table(compare_studies(results), tmp_path / "table.html")
    for width in (400, 1400):
        page = browser.new_page(viewport={"width": width, "height": 900})
        said, asked = [], []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto((tmp_path / "table.html").as_uri())
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "table.html").as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert complaints(page) == []
        page.close()


def test_every_published_row_is_of_a_known_data_set_and_has_a_source():
    assert {one.dataset for one in PUBLISHED} <= {source.name for source in KNOWN_DATASETS}
    assert all(one.source and 0 < one.accuracy < 1 for one in PUBLISHED)
