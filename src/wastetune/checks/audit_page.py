"""An audit as audit.html: one file with small pictures that needs no network and escapes all values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wastetune.checks.audit import Audit
from wastetune.data.corrections import render_corrected
from wastetune.data.image import draw_thumbnail
from wastetune.data.index import Picture
from wastetune.formatting import render_count
from wastetune.report.html import render_template, write_text

FILE = "audit.html"
MOST_SUSPECTS, MOST = 60, 24  # shown; thumbnails are some 5 KB each


@dataclass(frozen=True)
class _Shown:
    """A picture on the page."""

    path: str
    label: str
    image: str | None  # a data URI; None where the file is gone
    own: str = ""  # the probabilities of a suspected label and of the likely class
    likely: str = ""


@dataclass(frozen=True)
class _Section:
    """Groups of pictures of one kind, the first `most` of them with thumbnails; single pictures are groups of one."""

    id: str
    title: str
    note: str
    groups: Sequence[Sequence[_Shown]]
    total: int


def write_page(found: Audit, corrections: Path, folder: Path) -> None:
    """Writes audit.html into the folder; it names the file of corrections, in which a person decides."""
    write_text(render_page(found, corrections), folder, FILE)


def render_page(found: Audit, corrections: Path) -> str:
    """The page as text."""
    index = found.index
    return render_template(
        "audit.html",
        name=index.folder.resolve().name,
        pictures=f"{len(index.pictures):,}",
        classes=len(index.classes),
        corrections=corrections.as_posix(),
        corrected=render_corrected(index.corrected),
        sections=list(_sections(found)),
        problems=[f"{problem.path}: {problem.what}" for problem in index.problems],
    )


def _sections(found: Audit) -> Iterator[_Section]:
    folder, classes = found.index.folder, found.index.classes
    thumbnail = cache(lambda path: draw_thumbnail(folder / path))

    def show(picture: Picture, own: str = "", likely: str = "") -> _Shown:
        return _Shown(picture.path, classes[picture.label], thumbnail(picture.path), own, likely)

    def show_groups(groups: Sequence[Sequence[Picture]]) -> list[list[_Shown]]:
        return [[show(picture) for picture in group] for group in groups[:MOST]]

    contradictions, alike = found.contradictions, found.near_duplicates
    yield _Section(
        "contradictions",
        "One picture in two classes",
        "These look the same, and their labels differ. At least one label is wrong, or the photo shows both.",
        show_groups(contradictions),
        len(contradictions),
    )
    yield _Section(
        "labels",
        "Labels to check",
        "A model that has not seen the picture finds another class more likely than its label. The most suspicious "
        f"come first. An estimate: {render_count(found.wrong, 'label')} of the data set may be wrong. Most others are "
        "difficult pictures with the right label.",
        [
            [show(one.picture, f"{one.own:.0%}", f"{classes[one.likely]}, {one.probability:.0%}")]
            for one in found.suspects[:MOST_SUSPECTS]
        ],
        len(found.suspects),
    )
    yield _Section(
        "alike",
        "Pictures that look alike",
        "One photo twice, or two shots of one scene. A study keeps them on one side of its split, so they do no harm; "
        "drop what is superfluous.",
        show_groups(alike),
        len(alike),
    )
    for name, note in (
        ("blurred", "Far less sharp than the other pictures."),
        ("dark", "Dark even where they are brightest."),
        ("blank", "Almost one colour."),
    ):
        pictures = getattr(found, name)
        yield _Section(name, name.capitalize(), note, show_groups([[one] for one in pictures]), len(pictures))
