"""report.html: what stands where, that nothing in it can do harm, and that every kind of study has a page."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from support.browser import complaints
from support.reports import a_report, report_values, scores
from wastetune.report.html import MISTAKES, SECTIONS, render_page, render_sure, write_page
from wastetune.report.predictions import Mistake
from wastetune.report.results import Report
from wastetune.report.text import render_report
from wastetune.search.history import History, Searched
from wastetune.storage.records import TrialRecord

RNG = np.random.default_rng(0)
SPACE = {
    "learning_rate": Searched(log=True),
    "head_layers": Searched(whole=True),
    "dropout": Searched(),
    "optimizer": Searched(options=("adamw", "adam")),
    "batch_size": Searched(options=(32, 64)),
}
HOSTILE = "<script>window.harmed = 1</script>\"'><img src=x onerror='window.harmed = 2'>{{ 7 * 7 }}"


def a_trial(number, state="complete", **changes):
    config = {
        "learning_rate": float(10 ** RNG.uniform(-4, -2)),
        "head_layers": int(RNG.integers(0, 3)),
        "dropout": float(RNG.uniform(0, 0.6)),
        "optimizer": str(RNG.choice(["adamw", "adam"])),
        "batch_size": int(RNG.choice([32, 64])),
    }
    score = None if state == "failed" else float(RNG.uniform(0.6, 0.9))
    epochs = [
        {"number": n, "loss": 2 / n, "score": 0.8 - 0.5 / n, "accuracy": 0.8, "seconds": 0.1} for n in range(1, 9)
    ]
    told = {
        "seconds": float(RNG.uniform(1, 60)),
        "parameters": int(RNG.integers(1000, 10**6)),
        "default": number == 0,
        "config": config,
        "drawn": config,
        "epochs": epochs,
        "best_epoch": 6,
        "failure": "TrainingFailed: the loss became nan" if state == "failed" else "",
    }
    return TrialRecord(number=number, state=state, score=score, **{**told, **changes})


def a_history(trials):
    importance = {"learning_rate": 0.7, "dropout": 0.3} if len(trials) > 3 else {}
    return History(tuple(trials), SPACE, importance)


def of_classes(names, **changes):
    return a_report(classes=names, test=scores(0.75, names), default_test=scores(0.6, names), **changes)


def won_by(number, **changes):
    return a_report(best=report_values()["best"] | {"number": number}, **changes)


MIXED = a_history([a_trial(n, "failed" if n % 7 == 5 else "pruned" if n % 5 == 4 else "complete") for n in range(21)])
PRUNED_EARLY = replace(a_trial(4, "pruned"), score=None)
OLD = {key: value for key, value in report_values().items() if key not in ("edges", "problems", "duplicates")}
CASES = {
    "mixed": (a_report(), MIXED),
    "two classes": (of_classes(["box", "leaf"]), MIXED),
    "thirty classes": (of_classes([f"a class with a long name, number {i}" for i in range(30)]), MIXED),
    "one trial": (won_by(0, trials={"complete": 1, "pruned": 0, "failed": 0}), a_history([a_trial(0)])),
    "no intervals": (a_report(test=scores(0.75) | {"intervals": {}}), MIXED),
    "nothing known but the report": (Report.from_dict(OLD), History((), {}, {})),
    "pruned before a score": (won_by(0), a_history([a_trial(0), PRUNED_EARLY])),
    "all scores alike": (won_by(0), a_history([replace(a_trial(n), score=0.5, seconds=0.0) for n in range(5)])),
    "trials without attributes": (
        won_by(0),
        a_history([a_trial(n, "failed", config={}, drawn={}, parameters=None, epochs=()) for n in range(3)]),
    ),
    "known data": (
        of_classes(
            ["cardboard", "glass", "metal", "paper", "plastic", "trash"],
            dataset="trashnet",
            gain={"accuracy": [0.01, 0.05], "f1_macro": [-0.01, 0.05]},
        ),
        MIXED,
    ),
    "five hundred trials": (won_by(17), a_history([a_trial(n) for n in range(500)])),
    "hostile": (
        of_classes(
            [HOSTILE, "leaf"],
            **dict.fromkeys(("study", "question", "backbone", "dataset", "command"), HOSTILE),
            versions={HOSTILE: HOSTILE},
            problems=[{"path": HOSTILE, "what": HOSTILE}],
            class_counts={HOSTILE: {"train": 1, "val": 1, "test": 1}},
            begun_with={HOSTILE: HOSTILE, "sampler": HOSTILE},
        ),
        a_history([a_trial(17), a_trial(18, "failed", failure=HOSTILE)]),
    ),
}


def a_page(name, mistakes=()):
    report, history = CASES[name]
    return render_page(report, history, mistakes)


class Reader(HTMLParser):
    """What a browser would see: texts by section, tags, attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.sections, self.open = [], [], {"": ""}, ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "section":
            self.open = dict(attrs)["id"]
            self.sections[self.open] = ""

    def handle_data(self, data):
        self.sections[self.open] += data


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_study_has_a_page_with_all_sections_in_order(name):
    page = a_page(name)
    assert [id for id in Reader(page).sections if id] == [
        id for id, _ in SECTIONS if id not in ("backbones", "confidence")
    ]
    assert len(page.encode()) < 2e6
    assert not re.search(r'="-?(nan|inf)|>(None|nan|Undefined)<', page)


def test_the_answer_comes_first_and_has_all_that_was_asked():
    answer = Reader(a_page("known data")).sections["answer"]
    report = CASES["known data"][0]
    assert f"{report.test.f1_macro:.3f}" in answer
    low, high = report.test.intervals["f1_macro"]
    assert f"95 % interval {low:.3f} to {high:.3f}" in answer
    assert "trial 17, validation macro F1 0.951" in answer
    assert "95 % interval of the difference in macro F1 -0.010 to +0.050, so chance may explain it" in answer
    assert "at its bound 0.003" in answer
    for published in ("ResNeXt50 + IPAM", "0.9605 ± 0.0014", "PMC11479324", "Published figures are quoted"):
        assert published in answer


def test_published_figures_need_the_same_classes_not_only_the_name():
    assert "published" not in Reader(render_page(a_report(dataset="trashnet"), MIXED, ())).sections["answer"]


def test_a_reader_finds_classes_confusions_failures_and_costs():
    read = Reader(a_page("mixed")).sections
    assert re.search(r"Cardboard\s*0\.941\s*0\.856\s*0\.897\s*167", read["classes"])
    assert "Food Organics taken for Plastic, 6 of 135" in read["confusion"]
    assert "trial 17 (winner), epoch 6 (its best)" in read["curves"]
    assert "trial 5, TrainingFailed: the loss became nan" in read["search"]
    assert "best so far" in read["search"]
    assert "70 %" in read["mattered"]
    assert "With fewer than 30" in read["mattered"]
    assert "learning_rate" in read["mattered"]
    assert "trainable parameters" in read["frontier"]
    assert "12 duplicates, 1 in more than one class" in read["data"]
    assert "Glass/broken | 1.jpg: the file ends too early" in read["data"]
    assert "3f1c0a9b" in read["again"]


def test_an_interrupted_trial_is_told_apart_from_a_failed_one_and_not_drawn():
    interrupted = replace(a_trial(1), state="interrupted", score=None, failure="worker lost", again=2)
    counts = {"complete": 1, "pruned": 0, "failed": 0, "interrupted": 1}
    report, history = won_by(2, trials=counts), a_history([interrupted, a_trial(2)])
    page = render_page(report, history, ())
    search = Reader(page).sections["search"]
    assert "1 complete, 1 interrupted." in search
    assert "Trial 1 was interrupted (worker lost), tried again as trial 2." in search
    assert "Failed" not in search
    assert "<title>trial 1:" not in page
    assert "1 complete, 0 pruned, 0 failed, 1 interrupted and tried again." in render_report(report)


def test_the_best_so_far_only_rises_and_ends_at_the_best_score():
    page = a_page("five hundred trials")
    search = page.split('<section id="search">')[1].split("</section>")[0]
    lines = re.findall(r'class="best line" x1="([\d.]+)%" y1="([\d.]+)" x2="([\d.]+)%" y2="([\d.]+)"', search)
    heights = [(float(y1), float(y2)) for _, y1, _, y2 in lines]
    assert len(heights) > 3
    assert all(after <= before for before, after in heights)
    best = max(CASES["five hundred trials"][1].trials, key=lambda trial: trial.score)
    top = re.search(rf'cx="[\d.]+%" cy="([\d.]+)" r="[\d.]+"><title>trial {best.number}[,:]', search)
    assert float(top[1]) == pytest.approx(heights[-1][1], abs=0.06)


def test_the_frontier_keeps_only_what_nothing_cheaper_beats():
    cheap, dear, worse = (
        replace(a_trial(n), score=s, seconds=t) for n, s, t in ((1, 0.7, 1), (2, 0.9, 9), (3, 0.6, 5))
    )
    page = render_page(won_by(2), a_history([cheap, dear, worse]), ())
    chart = page.split('<section id="frontier">')[1].split("</figure>")[0]
    corners = re.findall(r'class="best line" x1="([\d.]+)%" y1="([\d.]+)"', chart)
    dots = dict(re.findall(r'cx="([\d.]+)%" cy="([\d.]+)"', chart))
    assert corners[0] in dots.items()
    assert len(corners) == 3  # along, up, along
    assert min(dots.values(), key=float) == corners[-1][1]


def test_the_mistakes_are_shown_with_picture_classes_and_probability(tmp_path, pictures):
    found = [Mistake("box/box000.jpg", "box", "leaf", 0.987), Mistake("box/gone.jpg", "box", "leaf", 0.5)]
    write_page(CASES["two classes"][0], MIXED, found, pictures, tmp_path)
    page = (tmp_path / "report.html").read_text()
    read = Reader(page).sections["mistakes"]
    assert page.count("data:image/jpeg;base64,") == 1
    assert re.search(r"true: box\s*said: leaf, 98.7 %\s*box/box000.jpg", read)
    assert "the picture is no longer there" in read
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_near_certain_probabilities_are_told_apart():
    sure = (0.5, 0.87, 0.9, 0.987, 0.9957, 0.99957, 0.9999957, 1.0)
    shown = ["50 %", "87 %", "90 %", "98.7 %", "99.57 %", "99.957 %", "99.99957 %", "over 99.99999 %"]
    assert [render_sure(probability) for probability in sure] == shown


def test_without_predictions_or_without_mistakes_the_page_says_so():
    assert "has no predictions.csv" in Reader(a_page("mixed", None)).sections["mistakes"]
    assert "every test picture was recognised" in Reader(a_page("mixed", ())).sections["mistakes"]


def test_the_largest_page_stays_under_two_megabytes(tmp_path):
    noise = np.random.default_rng(1)
    for i in range(MISTAKES):
        Image.fromarray(noise.integers(0, 255, (300, 400, 3), np.uint8)).save(tmp_path / f"{i}.png")
    found = [Mistake(f"{i}.png", "Glass", "Metal", 0.9) for i in range(MISTAKES)]
    report = of_classes([f"class {i}" for i in range(30)], best=report_values()["best"])
    write_page(report, CASES["five hundred trials"][1], found, tmp_path, tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 2e6


def test_names_that_are_programs_are_text():
    mistake = Mistake(HOSTILE, HOSTILE, HOSTILE, 0.9)
    page = a_page("hostile", [(mistake, "data:image/jpeg;base64,AA=="), (mistake, None)])
    read = Reader(page)
    assert read.tags.count("script") == 1
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert {value for name, value in read.attributes if name == "src"} == {"data:image/jpeg;base64,AA=="}
    assert "<script>window" not in page
    assert "49" not in read.sections[""]  # nor is a name a template
    assert page.count("&lt;script&gt;window.harmed = 1&lt;/script&gt;") > 20


def test_a_file_name_that_is_no_text_does_not_break_the_page(tmp_path):
    write_page(a_report(), MIXED, [Mistake("Glass/\udcff.jpg", "Glass", "Metal", 0.9)], tmp_path, tmp_path)
    assert "Glass/?.jpg" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_nothing_on_the_page_lies_elsewhere():
    page = a_page("known data")
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:)?//", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_it_without_complaint_request_or_overflow(browser, tmp_path, name, width):
    mistake = Mistake(HOSTILE, HOSTILE, "leaf", 0.9)
    (tmp_path / "report.html").write_text(a_page(name, [(mistake, None)]), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 900})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("window.harmed") is None
    page.close()


def test_a_mark_tells_what_it_is_when_pointed_at(browser, tmp_path):
    (tmp_path / "report.html").write_text(a_page("mixed"), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("#tip").is_hidden()
    page.locator("#search circle.winner[data-tip]").hover()
    assert page.locator("#tip").inner_text().startswith("trial 17, the winner: 0.")
    page.locator("#confusion td.hit").first.hover()
    assert page.locator("#tip").inner_text() == "Cardboard taken for Cardboard: 143 of 167 (86 %)"
    page.close()


def test_dark_and_light_and_print_have_their_own_paper(browser, tmp_path):
    (tmp_path / "report.html").write_text(a_page("mixed"), encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())

    def paper(**media):
        page.emulate_media(**media)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    assert paper(color_scheme="light") > 240
    assert paper(color_scheme="dark") < 40
    assert paper(color_scheme="dark", media="print") == 255
    page.close()


def opened(browser, tmp_path, text, **options):
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    page = browser.new_page(**options)
    page.goto((tmp_path / "report.html").as_uri())
    return page


@pytest.mark.parametrize(
    ("name", "width", "scheme"), [("mixed", 400, "light"), ("mixed", 400, "dark"), ("known data", 1400, "light")]
)
def test_everyone_can_read_it(browser, tmp_path, name, width, scheme):
    text = a_page(name, [(Mistake("Glass/1.jpg", "Glass", "Metal", 0.9), None)])
    page = opened(browser, tmp_path, text, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert complaints(page) == []
    page.close()


CONTRAST = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [[r, 0.2126], [g, 0.7152], [b, 0.0722]].reduce((sum, [value, weight]) => {
    const share = value / 255;
    return sum + weight * (share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4);
  }, 0);
  const paper = numbers(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll("table.matrix td")].map((cell) => {
    const style = getComputedStyle(cell);
    const [r, g, b, alpha = 1] = numbers(style.backgroundColor);
    const behind = light([r, g, b].map((value, i) => alpha * value + (1 - alpha) * paper[i]));
    const text = light(numbers(style.color));
    return (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
  });
}"""


@pytest.mark.parametrize("media", [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"media": "print"}])
def test_the_numbers_of_a_confusion_matrix_stand_out_from_every_shade(browser, tmp_path, media):
    names = [f"class {i}" for i in range(40)]
    values = scores(0.75, names)
    # Every share of a row from 0 to 39 of 40.
    values["confusion_matrix"] = [[{i: i, (i + 1) % 40: 40 - i}.get(j, 0) for j in range(40)] for i in range(40)]
    page = opened(browser, tmp_path, render_page(a_report(classes=names, test=values), MIXED, ()))
    page.emulate_media(**media)
    contrasts = page.evaluate(CONTRAST)
    assert len(contrasts) == 1600
    assert min(contrasts) >= 4.5
    page.close()


def test_a_loss_says_that_it_is_one_and_looks_like_one(browser, tmp_path):
    worse = a_report(test=scores(0.6), default_test=scores(0.75))
    page = opened(browser, tmp_path, render_page(worse, MIXED, ()))
    tile = page.locator(".tile", has_text="Loss against the default")
    assert tile.locator("b").inner_text() == "-0.141"
    colour = "element => getComputedStyle(element).color"
    assert tile.locator("b").evaluate(colour) == "rgb(163, 36, 59)"
    assert page.locator(".tile", has_text="Trials").locator("b").evaluate(colour) != "rgb(163, 36, 59)"
    page.close()
    assert "Gain over the default" in a_page("mixed")


def test_print_wastes_no_paper(browser, tmp_path):
    page = opened(browser, tmp_path, a_page("mixed"))
    sheets = page.pdf(format="A4", prefer_css_page_size=True)
    assert int(re.search(rb"/Type /Pages\s+/Count (\d+)", sheets)[1]) <= 4
    page.close()


def test_near_duplicates_are_told_where_there_are_any():
    assert "Near-duplicates" not in a_page("mixed")
    data = Reader(render_page(a_report(near_duplicates=341), MIXED, ())).sections["data"]
    assert "Near-duplicates: 341 groups of pictures that look alike." in data
    assert "on one side of the split" in data


def test_an_importance_comes_with_its_range():
    spread = {"learning_rate": (0.31, 0.82)}
    mattered = Reader(render_page(a_report(), replace(MIXED, importance_spread=spread), ())).sections["mattered"]
    assert re.search(r"learning_rate\s*70 % \(31 to 82\)\s*dropout\s*30 %\s", mattered)
    assert "where two ranges overlap, the order is not known" in mattered
    assert "overlap" not in Reader(a_page("mixed")).sections["mattered"]


def test_several_objectives_have_a_chart_each_and_a_table():
    history = a_history([a_trial(n, costs={"latency_ms": 2 + n / 10}) for n in range(8)])
    best = max(history.trials, key=lambda trial: trial.score)
    front = [{"number": best.number, "score": best.score, "costs": dict(best.costs)}]
    report = a_report(
        best=report_values()["best"] | {"number": best.number, "costs": dict(best.costs)},
        front=front,
        limits={"latency_ms": 2.5},
    )
    page = render_page(report, history, [])
    assert 'aria-label="scores against latency in ms"' in page
    assert "<h3>Pareto front</h3>" in page
    assert f'<td class="n">{best.costs["latency_ms"]:.4g} ms</td>' in page
    without = render_page(won_by(best.number), history, [])
    assert "Pareto front</h3>" not in without
    assert "latency" not in without
