"""The report in words and pictures, compared with committed texts; `UPDATE_GOLDEN=1 pytest` rewrites them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.reports import a_report, report_values, scores, write
from wastetune.report.figures import draw_confusion_matrix, text_colour
from wastetune.report.html import render_page
from wastetune.report.results import Report, read_report
from wastetune.report.text import data_facts, render_markdown, render_report, wrapped
from wastetune.search.history import History
from wastetune.study.summary import edge_findings

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(("render", "name"), [(render_report, "report.txt"), (render_markdown, "report.md")])
def test_a_report_reads_as_the_committed_one(render, name):
    text = render(a_report())
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("count", [2, 9, 60])
def test_the_terminal_report_fits_80_columns(count):
    classes = [f"a class with quite a long name, number {i}" for i in range(count)]
    text = render_report(a_report(classes=classes, test=scores(0.5, classes), question="why? " * 60))
    assert max(map(len, text.splitlines())) <= 80


def test_a_number_keeps_its_sign_of_percent_at_the_end_of_a_line():
    assert wrapped([f"{'a' * 76} 50 % of them"]) == ["a" * 76, "  50 % of them"]


def test_the_matrix_has_the_classes_over_its_columns_where_they_fit():
    digits = [str(number) for number in range(10)]
    text = render_report(a_report(classes=digits, test=scores(0.5, digits)))
    header, *rows = text.partition("Confusion matrix")[2].splitlines()[1:12]
    assert header.split() == digits
    assert [row.split()[0] for row in rows] == digits


def test_a_default_within_the_interval_is_not_sold_as_a_gain():
    close = a_report(default_test=scores(0.745))
    assert "chance may explain" in " ".join(render_report(close).split())
    assert "chance may explain" not in render_report(a_report(default_test=scores(0.3)))


def test_the_interval_of_the_difference_decides_where_it_is_known():
    near = scores(0.745)  # inside the interval, and yet surely worse
    surely = render_report(a_report(default_test=near, gain={"f1_macro": [0.002, 0.03], "accuracy": [0, 0]}))
    assert "interval of the difference in macro F1 +0.002 to +0.030." in " ".join(surely.split())
    assert "chance" not in surely
    perhaps = render_report(a_report(default_test=near, gain={"f1_macro": [-0.01, 0.03], "accuracy": [0, 0]}))
    assert "+0.030, so chance may explain it." in " ".join(perhaps.split())


def test_each_metric_is_named_once_in_the_headline():
    for metric, times in (("accuracy", 2), ("balanced_accuracy", 4), ("macro_f1", 2)):
        headline = render_report(a_report(metric=metric)).split("\n\n")[1]
        assert headline.count("accuracy") == times


def test_a_winning_default_is_said_to_win():
    best = report_values()["best"] | {"number": 0}
    assert "no trial was better than the default" in render_report(a_report(best=best))


def calibration(error):
    return {"error": error, "log_loss": 0.3, "brier": 0.15, "bins": []}


def made_of(kind, *members, **changes):
    """A report of a final model that is made of these trials."""
    final = {"kind": kind, "members": members, "considered": [17, 0], "temperature": 0.66}
    final |= {"score": 0.94, "default_score": 0.93} | changes.pop("final", {})
    measured = {"calibration": calibration(0.034), "uncalibrated": calibration(0.108)}
    return a_report(final=final, **measured | changes)


def words(report):
    return " ".join(render_report(report).split())


def test_the_final_model_is_told_with_its_optimism_and_calibration():
    said = words(made_of("ensemble", 17, 3, 0))
    assert "Final model: the mean of 3 models (trials 17, 3, 0)." in said
    assert "best validation score 0.951; final model fitted again, on validation pictures 0.940; test set" in said
    assert "off by 3.4 points on average (10.8 before calibration with temperature 0.66)" in said
    assert "Best trial: 17, validation macro F1 0.951; the final model is a mean of 3, with this one" in said
    assert "Final model: trial 17." in words(made_of("best", 17))
    weighted = made_of("ensemble", 17, 3, 0, final={"weights": [0.5, 0.25, 0.25]})
    assert "Final model: the mean of 3 models (trials 17: 50 %; 3, 0: 25 % each)." in words(weighted)
    shortened = words(made_of("ensemble", 17, 3, 0, final={"epochs": [12, 48, 48]}))
    assert "For want of time they were fitted again for 12, 48, 48 epochs, in this order." in shortened
    alone = words(made_of("best", 17, final={"epochs": [12]}))
    assert "For want of time it was fitted again for 12 epochs." in alone
    assert "For want of time" not in said


def test_the_page_shows_accuracy_by_confidence_and_leaves_it_out_where_it_was_not_measured():
    bins = [{"low": 0.8, "high": 0.9, "count": 40, "confidence": 0.85, "accuracy": 0.775}]
    page = render_page(made_of("best", 17, calibration=calibration(0.034) | {"bins": bins}), History((), {}, {}), None)
    assert "calibrated: 40 pictures, 85 % sure, 78 % right" in page
    assert page.count('href="#confidence"') == page.count('id="confidence"') == 1
    assert "confidence" not in render_page(a_report(), History((), {}, {}), None)


def test_a_warm_start_is_told_with_what_to_doubt():
    starts = [
        {"study": "old", "trial": 12},
        {"study": "same", "trial": 3, "resplit": True},
        {"study": "old", "trial": 7},
    ]
    best = report_values()["best"] | {"origin": "same, trial 3"}
    report = a_report(warm_starts=starts, best=best)
    page = render_page(report, History((), {}, {}), None)
    for said in (words(report), render_markdown(report), page):
        assert "Warm start with 3 configurations of earlier studies: old (trials 12, 7); same (trials 3)." in said
        assert (
            "same had another split of this data set, so what these configurations were chosen by may be among" in said
        )
        assert "Best configuration: trial 17, from same, trial 3, validation macro F1 0.951;" in said
    assert "another split" not in words(a_report(warm_starts=starts[:1]))
    assert "arm start" not in words(a_report())


def test_a_default_that_was_kept_is_told_as_such():
    said = words(made_of("default", 0))
    assert "Final model: the default configuration; on validation pictures nothing was better." in said
    assert "Tuned against default" not in said
    assert "Best trial: 17, validation macro F1 0.951; the final model is the default configuration, not" in said


@pytest.mark.parametrize("report", [made_of, lambda kind, *members, **changes: a_report(**changes)])
def test_a_default_that_won_was_retrained(report):
    best = report_values()["best"] | {"number": 0}
    assert "trial 0, validation macro F1 0.951; retrained for 5 epochs" in words(report("default", 0, best=best))


def test_a_final_model_that_is_worse_beyond_chance_is_said_loudly():
    worse = {"f1_macro": [-0.13, -0.08], "accuracy": [0, 0]}
    assert "WORSE THAN THE DEFAULT" in words(made_of("ensemble", 17, 0, gain=worse))
    doubtful = {"f1_macro": [-0.13, 0.01], "accuracy": [0, 0]}
    assert "WORSE THAN THE DEFAULT" not in words(made_of("ensemble", 17, 0, gain=doubtful))
    page = render_page(made_of("ensemble", 17, 0, gain=worse), History((), {}, {}), None)
    assert '<li class="worse">WORSE' in page


@pytest.mark.parametrize(("auroc", "warned"), [(0.99, True), (0.6, False)])
def test_test_pictures_that_are_unlike_those_of_training_are_told_before_the_score(auroc, warned):
    shift = {"auroc": auroc, "per_class": {"Glass": 0.8, "Metal": 0.9}, "least_alike": ["Glass/1.jpg"]}
    said = words(a_report(shift=shift))
    assert ("most of all in Metal" in said) == warned
    assert not warned or said.index("not like your training pictures") < said.index("Test set:")


def test_a_results_folder_holds_whole_files_and_is_replaced_by_another_report(tmp_path):
    write(a_report(), tmp_path / "results")
    write(a_report(study="again"), tmp_path / "results")
    names = {path.name for path in (tmp_path / "results").iterdir()}
    assert names == {"report.json", "report.md", "report.html", "confusion_matrix.png"}
    assert json.loads((tmp_path / "results/report.json").read_text()) == report_values(study="again")


def test_the_same_report_leaves_the_folder_alone_but_for_a_lost_page(tmp_path):
    write(a_report(), tmp_path)
    page = (tmp_path / "report.html").read_text()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write(read_report(tmp_path), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
    (tmp_path / "report.html").unlink()
    write(read_report(tmp_path), tmp_path)
    assert (tmp_path / "report.html").read_text() == page
    assert {path for path in tmp_path.iterdir() if path.stat().st_mtime_ns != times[path]} == {tmp_path / "report.html"}


def test_a_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    write(a_report(), tmp_path)

    def broken(*arguments):
        raise OSError("the disk is full")

    monkeypatch.setattr("wastetune.report.results_folder.draw_confusion_matrix", broken)
    with pytest.raises(OSError, match="the disk is full"):
        write(a_report(study="again"), tmp_path)
    assert read_report(tmp_path) == a_report()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_report_keeps_its_keys_in_order_and_those_it_does_not_know(tmp_path):
    values = report_values(of_a_later_version={"a": [1, None]})
    assert Report.from_dict(values).to_dict() == values
    written = list(Report.from_dict(dict(reversed(values.items()))).to_dict())
    assert written == [key for key in Report.model_fields if key in values] + ["of_a_later_version"]
    (tmp_path / "report.json").write_text(json.dumps({key: values[key] for key in values if key != "test"}))
    assert read_report(tmp_path) is None


def test_the_matrix_is_shaded_by_the_share_of_the_true_class(tmp_path):
    def dark_pixels(matrix):
        draw_confusion_matrix(matrix, ["a", "b"], tmp_path / "matrix.png")
        return (np.asarray(Image.open(tmp_path / "matrix.png").convert("L")) < 100).sum()

    # A class of 10 pictures, all found, is as dark as one of 90.
    assert dark_pixels([[90, 0], [0, 10]]) == pytest.approx(dark_pixels([[90, 0], [0, 90]]), rel=0.02)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"learning_rate": 0.0098}, [("learning_rate", 1e-2, True)]),
        ({"learning_rate": 0.008}, []),
        ({"learning_rate": 1.05e-4}, [("learning_rate", 1e-4, True)]),
        ({"frozen_depth": 1.0, "dropout": 0.595}, [("frozen_depth", 1.0, False), ("dropout", 0.6, True)]),
        ({"head_layers": 1, "head_units": None}, []),
        ({"head_layers": 2, "head_units": 64}, [("head_layers", 2, True), ("head_units", 64, True)]),
    ],
)
def test_edges_are_measured_on_the_scale_of_the_search(config, found):
    searched = {
        "learning_rate": (1e-4, 1e-2, True),
        "frozen_depth": (0.5, 1.0, False),
        "dropout": (0.0, 0.6, False),
        "head_layers": (0, 2, False),
        "head_units": (64, 1024, True),
    }
    findings = edge_findings(config, {key: searched[key] for key in config})
    assert [(one.parameter, one.bound, one.widen) for one in findings] == found


def test_a_test_set_that_was_opened_again_is_said_to_be():
    opened = [{"study": "other", "trials": [3, 4], "when": "2026-11-24T10:00:00Z"}, {"study": "mine", "trials": [17]}]
    said = "evaluated 2 times: 2026-11-24 other (trials 3, 4); mine (trials 17)"
    assert said in words(a_report(openings=opened))
    assert "evaluated" not in words(a_report(openings=opened[1:]))
    many = [opened[1] | {"trials": [number]} for number in range(9)]
    assert "evaluated 9 times: the last, mine (trials 4)" in words(a_report(openings=many))


def test_a_report_of_an_earlier_version_counts_its_winners():
    said = "evaluated 2 times: resnet50_wid (trials 3); resnet50_wid (trials 17)"
    assert said in words(a_report(test_opened_for=[3, 17]))
    assert "evaluated" not in words(a_report(test_opened_for=[17]))


def test_a_split_that_leaks_is_said_first_and_loudly():
    leaking = a_report(leaked=93)
    assert words(leaking).index("LEAKS") < words(leaking).index("Test set:")
    page = render_page(leaking, History((), {}, {}), None)
    assert '<li class="worse">THE SPLIT LEAKS' in page
    assert "are on both sides of the split" in page
    assert "LEAKS" not in render_page(a_report(), History((), {}, {}), None)


def test_intervals_over_several_seeds_name_the_other_scores():
    said = words(a_report(repeats={"f1_macro": [0.8761, 0.8894], "accuracy": [0.88, 0.89]}))
    assert "over 789 pictures and 3 seeds (macro F1 0.876 and 0.889 with the others)" in said
    assert "95 % intervals, 789 pictures." in words(a_report())


def test_unsure_answers_and_prediction_sets_are_shown_with_what_they_did_to_the_test_pictures():
    thresholds = [{"precision": p, "confidence": c, "coverage": 0.8} for p, c in ((0.95, 0.71), (0.99, 0.93))]
    final = {"thresholds": thresholds}
    answered = [
        {"precision": 0.95, "coverage": 0.82, "accuracy": 0.9481},
        {"precision": 0.99, "coverage": 0.0, "accuracy": None},
    ]
    covered = [{"promised": 0.9, "coverage": 0.912, "size": 1.236}]
    curve = [[0.1, 1.0], [1.0, 0.88]]
    report = made_of("ensemble", 17, 3, final=final, answered=answered, covered=covered, accuracy_by_coverage=curve)
    said = words(report)
    assert "to be right 95 % of the time, it answers 82 % of the test pictures (94.8 % of them right)." in said
    page = render_page(report, History((), {}, {}), None)
    assert "wanted 95 %: 82 % of the pictures answered, 94.8 % right" in page
    assert '<th scope="row">99 %</th><td class="n">93 %</td><td class="n">0 %</td><td class="n">none</td>' in page
    assert '<th scope="row">90 %</th><td class="n">91.2 %</td><td class="n">1.24</td>' in page
    assert "Unsure is an answer" not in words(made_of("ensemble", 17, 3))
    assert "Unsure is an answer" not in render_page(made_of("ensemble", 17, 3), History((), {}, {}), None)


def test_corrections_are_told_with_the_pictures():
    assert data_facts(a_report(corrected={"drop": 2, "relabel": 1}))[1:] == [
        "Corrected by hand: 2 dropped, 1 relabelled."
    ]
    assert len(data_facts(a_report())) == 1


def test_another_sampler_or_pruner_is_told_with_the_trials():
    report = a_report(begun_with={"backbone": "tiny_net", "sampler": "random", "pruner": "none"})
    assert "failed; sampler random, pruner none." in words(report)
    assert "; sampler random, pruner none. Scores are on" in render_page(report, History((), {}, {}), None)
    assert "sampler" not in words(a_report(begun_with={"backbone": "tiny_net"}))


def test_the_text_in_a_cell_is_legible_on_every_shade_of_the_confusion_matrix():
    grey = [level / 255 for level in range(256)]
    colours = [text_colour(level, level, level) for level in grey]
    assert colours == sorted(colours, reverse=True)  # white up to a grey, then black
    assert colours.index("black") == 119  # #767676 is the lightest grey under white text by WCAG 2


def of_backbones(*scores, **changes):
    """A report of a study of several backbones: name, trials, default, best, parameters and milliseconds of each."""
    keys = ("name", "trials", "default", "score", "parameters")
    rows = [dict(zip(keys, each, strict=False)) for each in scores]
    more = {"best": 17, "seconds": 60.0, "activation_seconds": 70.0}
    latency = {each[0]: each[5] for each in scores}
    config = report_values()["best"]["config"] | {"backbone": "resnet50"}
    best = {"number": 17, "score": 0.951, "config": config}
    return a_report(backbones=[row | more for row in rows], latency_ms=latency, best=best, **changes)


RESNET = ("resnet50", 20, 0.941, 0.951, 23_600_000, 61.2)


def test_the_report_says_which_backbone_won_and_how_the_trials_were_divided():
    report = of_backbones(("tiny_net", 4, 0.905, 0.921, 1_000_000, 7.4), RESNET)
    page = render_page(report, History((), {}, {}), None)
    for said in (words(report), render_markdown(report), page):
        assert "resnet50_wid: resnet50 (best of 2) on wid" in said
        assert (
            "Backbone: resnet50, by the best validation macro F1, 0.951 (0.941 with the default configuration), "
            "against tiny_net 0.921 (0.905), on 874 pictures." in said
        )
        assert "No cheaper backbone comes within 0.01 of it." in said
    table = render_report(report).split("\n\n")[2].splitlines()
    assert [line.split() for line in table] == [
        ["backbone", "trials", "default", "best", "time", "M", "params", "ms"],
        ["resnet50", "20", "0.941", "0.951", "2", "min", "10", "s", "23.6", "61"],
        ["tiny_net", "4", "0.905", "0.921", "2", "min", "10", "s", "1.0", "7.4"],
    ]
    assert page.count('href="#backbones"') == page.count('id="backbones"') == 1
    assert "ackbones" not in render_page(a_report(), History((), {}, {}), None)


def test_the_cheapest_backbone_within_a_point_is_named_with_what_it_saves():
    near = ("tiny_net", 4, 0.905, 0.942, 1_000_000, 7.4)
    assert (
        "Cheapest within 0.01 of the best: tiny_net, 0.942 (trial 17), with 7.4 ms a picture and 1.0 M parameters "
        "instead of 61 ms a picture and 23.6 M parameters; it was not evaluated on the test set."
        in words(of_backbones(near, RESNET))
    )
    alone = words(of_backbones(RESNET, ("huge_net", 4, 0.905, 0.95, 90_000_000, 200.0)))
    assert "heap" not in alone  # the winner is the cheapest anyway
    none = of_backbones(RESNET, ("lost_net", 0, None, None, 1_000_000, 5.0))
    assert "against lost_net none (none)" in words(none)


def with_costs(**changes):
    front = [
        {"number": 3, "score": 0.91, "costs": {"latency_ms": 2.0, "parameters": 586622.0}},
        {"number": 17, "score": 0.95123, "costs": {"latency_ms": 2.4, "parameters": 696414.0}},
    ]
    best = report_values()["best"] | {"costs": front[1]["costs"]}
    final = {"costs": {"latency_ms": 2.6, "parameters": 900000.0}} | changes.pop("final", {})
    limits = {"latency_ms": 2.5} | changes.pop("limits", {})
    return made_of("ensemble", 17, 3, best=best, front=front, limits=limits, final=final, **changes)


def test_several_objectives_have_a_front_and_the_final_model_has_its_costs():
    text = " ".join(render_report(with_costs(limits={"latency_ms": 5})).split())
    assert (
        "Costs of the final model: latency 2.6 ms (limit 5 ms), parameters 900,000; of the best trial alone: " in text
    )
    assert "3 0.910 2 ms 586,622 in the final model 17 0.951 2.4 ms 696,414 best, in the final model" in text
    assert "| 17 | 0.951 | 2.4 ms | 696,414 | best, in the final model |" in " ".join(
        render_markdown(with_costs()).split()
    )
    assert "ABOVE" not in text
    assert "2.6 ms (limit 2.5 ms), parameters 900,000, measured again ABOVE THE LIMIT" in " ".join(
        render_report(with_costs()).split()
    )
    assert max(map(len, render_report(with_costs()).splitlines())) <= 80
    assert "Pareto" not in render_report(a_report())
    assert "Objectives: macro F1, latency (at most 5 ms), parameters; 6 trials above a limit, pruned without" in text
