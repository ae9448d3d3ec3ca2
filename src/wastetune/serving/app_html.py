"""What the app shows, as HTML and as pictures inside it. Everything that comes from outside is escaped."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wastetune.data.image import draw_thumbnail, encode_jpeg
from wastetune.models.neighbors import Neighbor
from wastetune.models.saliency import Saliency

if TYPE_CHECKING:
    from jinja2 import Environment

_SIDE = 900  # pixels of the longer side of a photo on the page
_QUALITY = 85
_MOST_WIDE, _MOST_HIGH = 860, 420  # of the two pictures of an answer

# Dark violet over red to pale yellow (inferno's), so that it reads without telling red from green.
_STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
_COLOURS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)


def render_style() -> str:
    """The app's style, as an element."""
    return f"<style>{(files('wastetune.serving') / 'app.css').read_text(encoding='utf-8')}</style>"


def render_title(study: str, about: Mapping[str, Any]) -> str:
    """What the page is for, and which model it asks."""
    test = about.get("test", {})
    pictures = sum(each["support"] for each in test.get("per_class", {}).values())
    facts = [study, about.get("backbone"), f"{len(about['classes'])} classes"]
    if pictures:
        facts.append(f"right on {_percent(test['accuracy'], 0)} of {pictures:,} test pictures")
    return _render("title.html", facts=[fact for fact in facts if fact])


def render_upload_hint(classes: Sequence[str]) -> str:
    """What stands where the answer will be."""
    return _render("invitation.html", classes=classes)


def render_answer(
    look: Saliency, picture: Image.Image, classes: Sequence[str], about: Mapping[str, Any], truth: str | None
) -> str:
    """What the model says: class, probability, how far to trust it; the photo and where it looked; all classes."""
    order = np.argsort(-look.probabilities, kind="stable")
    name = classes[order[0]]
    small = picture.copy()
    small.thumbnail((_SIDE, _SIDE))
    return _render(
        "answer.html",
        name=name,
        bars=[(classes[label], float(look.probabilities[label])) for label in order],
        trust=about.get("test", {}).get("per_class", {}).get(name, {}).get("precision"),
        truth=truth,
        wide=min(_MOST_WIDE, round(2 * _MOST_HIGH * small.width / small.height)),
        photo=encode_jpeg(small, _QUALITY),
        heat=encode_jpeg(overlay_heatmap(small, look.heatmap), _QUALITY),
    )


def render_similar(neighbours: Sequence[Neighbor], answer: str, *, learnt: bool) -> str:
    """Training pictures that are like this one, and how many of them are of the class that was answered.

    `learnt` says that the model was trained on this one too.
    """
    shown = [(each.class_name, each.similarity, draw_thumbnail(each.path)) for each in neighbours]
    agree = sum(each.class_name == answer for each in neighbours)
    return _render("similar.html", shown=shown, answer=answer, agree=agree, learnt=learnt)


def overlay_heatmap(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """The picture in grey, and over it the heat (h, w) in 0..1, stretched as the picture was squashed."""
    grown = Image.fromarray(np.asarray(heat * 255, np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    share = np.asarray(grown, np.float32)[..., None] / 255
    glow = np.concatenate([np.interp(share, _STOPS, channel) for channel in _COLOURS.T], axis=-1)
    grey = np.asarray(picture.convert("L"), np.float32)[..., None]
    cover = 0.25 + 0.5 * share
    return Image.fromarray((grey * (1 - cover) + glow * cover).astype(np.uint8))


def _render(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("wastetune.serving", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters["percent"] = _percent
    return templates


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"
