"""The audit: what it finds in drawn pictures, its page, its command, and that decisions are carried out and kept."""

import re
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageFilter

from wastetune.backbones.backbone import load_backbone
from wastetune.checks.audit import audit, find_suspects, predict_out_of_fold, propose_corrections
from wastetune.checks.audit_page import MOST_SUSPECTS, render_page
from wastetune.cli.main import main
from wastetune.console import open_console
from wastetune.data.corrections import Correction, read_corrections, write_corrections
from wastetune.data.index import index_folder
from wastetune.data.pixels import open_pixels
from wastetune.settings import cache_folder

CLASSES = ("green", "violet")
HOSTILE = "<img src=x onerror=harm()>.png"
TINY = {"backbone": "mobilenet_v3_small_minimalistic", "weights": "none", "image_size": 32}
SEEING = TINY | {"backbone": "efficientnet_v2_b0"}  # tells colours apart even with random weights


def scene(colour, number):
    """A random scene in shades of one colour."""
    rng = np.random.default_rng((number, len(colour)))
    pixels = rng.integers(0, 80, (12, 12, 3), np.uint8)
    pixels[..., [1] if colour == "green" else [0, 2]] += 150
    return Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty pictures, with something of everything that an audit looks for."""
    folder = tmp_path_factory.mktemp("audit") / "colours"
    for colour in CLASSES:
        (folder / colour).mkdir(parents=True)
        for number in range(30):
            scene(colour, number).save(folder / colour / f"{number:02}.png")
    scene("violet", 100).save(folder / "green" / HOSTILE)  # a wrong label
    scene("violet", 7).save(folder / "green" / "twin.png")
    scene("green", 3).resize((48, 48)).save(folder / "green" / "smaller.png")
    scene("green", 50).filter(ImageFilter.GaussianBlur(3)).save(folder / "green" / "blurred.png")
    scene("violet", 51).point(lambda level: level // 3).save(folder / "violet" / "dark.png")
    Image.new("RGB", (64, 64), "orchid").save(folder / "violet" / "blank.png")
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return audit(folder, **SEEING, console=open_console(quiet=True))


@pytest.fixture
def _one_head(monkeypatch):
    """One head in each fold instead of three, where it does not matter which labels are suspected."""
    monkeypatch.setattr("wastetune.checks.audit._REPEATS", 1)


def paths(pictures):
    return [picture.path for picture in pictures]


def test_everything_that_is_wrong_is_found(found):
    assert [paths(group) for group in found.contradictions] == [["green/twin.png", "violet/07.png"]]
    assert [paths(group) for group in found.near_duplicates] == [["green/03.png", "green/smaller.png"]]
    assert paths(found.blurred) == ["green/blurred.png"]
    assert paths(found.dark) == ["violet/dark.png"]
    assert paths(found.blank) == ["violet/blank.png"]


def test_a_wrong_label_comes_first_with_the_likely_class(found):
    first = {one.picture.path: one for one in found.suspects[:3]}
    wrong = first[f"green/{HOSTILE}"]
    assert CLASSES[wrong.likely] == "violet"
    assert wrong.own < 0.5 < wrong.probability
    own = [one.own for one in found.suspects]
    assert own == sorted(own)
    assert len(own) <= round(0.08 * len(found.index.pictures))
    assert found.wrong >= 1


def test_the_same_seed_finds_the_same(found, folder):
    assert audit(folder, **SEEING, console=open_console(quiet=True)) == found


def test_every_picture_that_was_found_has_one_line_without_a_decision(found):
    lines = {line.path: line for line in propose_corrections(found)}
    assert len(lines) == len(propose_corrections(found))
    assert {line.decision for line in lines.values()} == {""}
    assert lines["violet/07.png"].why.startswith("looks like green/twin.png, in another class")
    assert lines["green/smaller.png"].why == "looks like green/03.png"
    assert "blank" in lines["violet/blank.png"].why
    assert lines[f"green/{HOSTILE}"].value == "violet"
    assert re.match(r"looks like violet \(\d+%\), not green \(\d+%\)", lines[f"green/{HOSTILE}"].why)


@pytest.mark.usefixtures("_one_head")
def test_decisions_are_carried_out_and_not_asked_again(folder, found, tmp_path):
    file = tmp_path / "corrections.csv"
    write_corrections(
        [
            Correction("green/twin.png", "drop"),
            Correction(f"green/{HOSTILE}", "relabel", "violet"),
            Correction("green/03.png", "keep"),
            Correction("green/smaller.png", "keep"),
            Correction("violet/dark.png", "keep"),
        ],
        file,
    )
    again = audit(folder, **TINY, corrections=file, console=open_console(quiet=True))
    assert len(again.index.pictures) == len(found.index.pictures) - 1
    assert (again.contradictions, again.near_duplicates, again.dark) == ((), (), ())
    assert again.blurred == found.blurred
    assert not {line.path for line in propose_corrections(again)} & {
        line.path for line in read_corrections(file, CLASSES)
    }


def test_the_page_shows_what_was_found_and_can_do_no_harm(found, tmp_path):
    page = render_page(found, tmp_path / "corrections.csv")
    assert "<img src=x" not in page
    assert "green/&lt;img src=x onerror=harm()&gt;.png" in page
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    for words in (
        "One picture in two classes",
        "Labels to check",
        "Pictures that look alike",
        "Blurred",
        "Dark",
        "Blank",
    ):
        assert words in page
    shown = sum(map(len, (*found.contradictions, *found.near_duplicates)))
    shown += sum(map(len, (found.suspects, found.blurred, found.dark, found.blank)))
    assert page.count("<img src=") == shown
    assert (tmp_path / "corrections.csv").as_posix() in page


def test_a_long_list_is_cut_on_the_page_and_says_so(found, tmp_path):
    many = replace(found, suspects=found.suspects[:1] * 100)
    page = render_page(many, tmp_path / "corrections.csv")
    assert f"These are the first {MOST_SUSPECTS} of 100" in page


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_fits_the_screen(browser, found, tmp_path, width):
    file = tmp_path / "audit.html"
    file.write_text(render_page(found, tmp_path / "corrections.csv"))
    page = browser.new_page(viewport={"width": width, "height": 900})
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert said == []
    page.close()


def run(*arguments):
    tiny = ("--backbone", TINY["backbone"], "--weights", "none", "--image-size", "32")
    return CliRunner().invoke(main, ["data", "audit", *map(str, arguments), *tiny])


@pytest.mark.usefixtures("_one_head")
def test_the_command_writes_a_page_and_a_file_that_it_never_overwrites(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(folder)
    assert done.exit_code == 0, done.output
    assert "one picture in two classes: 1\n  green/twin.png = violet/07.png\n" in done.output
    assert "look at audit/colours/audit.html" in done.output
    file = tmp_path / "audit/colours/corrections.csv"
    assert "twin.png" in (tmp_path / "audit/colours/audit.html").read_text()
    proposed = read_corrections(file, CLASSES)
    assert proposed
    twin = Correction("green/twin.png", "drop", "", "my own words")
    write_corrections([line for line in proposed if line.path != twin.path] + [twin], file)

    again = run(folder)
    assert "corrected by hand: 1 dropped" in again.output
    assert "one picture in two classes: none" in again.output
    lines = read_corrections(file, CLASSES)
    assert lines[0] == twin
    assert "violet/07.png" not in {line.path for line in lines if not line.why.startswith("looks like green (")}
    assert not any(line.decision for line in lines[1:])


def test_a_mistake_in_the_file_is_one_sentence_and_changes_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "mine.csv"
    mine.write_text("path,decision\ngreen/01.png,delete\n")
    done = run(folder, "--corrections", mine, "--output", "here")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {mine}, line 2: 'delete' is no decision; ")
    assert mine.read_text() == "path,decision\ngreen/01.png,delete\n"
    assert not (tmp_path / "here").exists()


@pytest.mark.slow
def test_of_wrong_labels_drawn_into_trashnet_most_are_listed(real_data, real_weights):
    whole = index_folder(real_data / "trashnet", cache=cache_folder())
    index = replace(whole, pictures=whole.pictures[::3])  # for time; benchmarks/audit.py takes all
    rng = np.random.default_rng(0)
    flipped = rng.choice(len(index.pictures), round(0.05 * len(index.pictures)), replace=False)
    pictures = list(index.pictures)
    for row in flipped:
        pictures[row] = replace(pictures[row], label=int((pictures[row].label + rng.integers(1, 6)) % 6))
    noisy = replace(index, pictures=tuple(pictures))
    trunk = load_backbone("mobilenet_v3_small_075", folder=real_weights)
    pixels = open_pixels(index, trunk.size, cache_folder())
    probabilities = predict_out_of_fold(noisy, pixels, trunk, seed=0, console=open_console(quiet=True))
    suspects, _ = find_suspects(noisy, probabilities)
    assert len(suspects) <= 0.08 * len(pictures) + 1
    listed = {one.picture.path for one in suspects}
    assert sum(index.pictures[row].path in listed for row in flipped) >= 0.75 * len(flipped)
