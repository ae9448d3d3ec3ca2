"""The parts of the app's page as HTML, with the pictures inside it. All values are escaped."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wastetune.data.image import draw_thumbnail, encode_jpeg
from wastetune.formatting import load_templates
from wastetune.models.answers import ALWAYS, Rule, decide
from wastetune.models.bundle import BundleDescription
from wastetune.models.neighbors import Neighbor
from wastetune.models.saliency import Saliency

_SIDE = 900  # pixels of the longer side of a photo on the page
_QUALITY = 85
_MOST_WIDE, _MOST_HIGH = 860, 420  # of the two pictures of an answer

# Dark violet over red to pale yellow (inferno), for readers who cannot tell red from green.
_STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
_COLOURS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)


def render_style() -> str:
    """The app's style, as an element."""
    return f"<style>{(files('wastetune.serving') / 'app.css').read_text(encoding='utf-8')}</style>"


def render_title(study: str, about: BundleDescription) -> str:
    """The head of the page: its purpose, and the model."""
    facts = [study, about.backbone, f"{len(about.classes)} classes"]
    if about.test:
        pictures = sum(each.support for each in about.test.per_class.values())
        facts.append(f"right on {_percent(about.test.accuracy, 0)} of {pictures:,} test pictures")
    return _render("title.html", facts=[fact for fact in facts if fact])


def render_upload_hint(classes: Sequence[str]) -> str:
    """The hint in place of the answer before there is a photo."""
    return _render("invitation.html", classes=classes)


def render_answer(
    look: Saliency,
    picture: Image.Image,
    classes: Sequence[str],
    about: BundleDescription,
    truth: str | None,
    rule: Rule = ALWAYS,
) -> str:
    """The answer: class, probability, precision on the test set; photo and saliency map; all classes."""
    said = decide(classes, look.probabilities, rule, look.likeness, count=len(classes))
    name = said.top[0][0]
    scores = about.test.per_class.get(name) if about.test else None
    small = picture.copy()
    small.thumbnail((_SIDE, _SIDE))
    return _render(
        "answer.html",
        name=name,
        unsure=said.unsure,
        unlike=said.unlike,
        needed=rule.confidence,
        bars=said.top,
        trust=scores.precision if scores else None,
        truth=truth,
        wide=min(_MOST_WIDE, round(2 * _MOST_HIGH * small.width / small.height)),
        photo=encode_jpeg(small, _QUALITY),
        heat=encode_jpeg(overlay_heatmap(small, look.heatmap), _QUALITY),
    )


def render_similar(neighbours: Sequence[Neighbor], answer: str, *, learnt: bool) -> str:
    """The most similar training pictures, and how many of them are of the predicted class.

    `learnt` tells that the model was trained on the photo itself.
    """
    shown = [(each.class_name, each.similarity, draw_thumbnail(each.path)) for each in neighbours]
    agree = sum(each.class_name == answer for each in neighbours)
    return _render("similar.html", shown=shown, answer=answer, agree=agree, learnt=learnt)


def overlay_heatmap(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """The picture in grey under the heat (h, w) in 0..1, which is stretched to the picture's shape."""
    grown = Image.fromarray(np.asarray(heat * 255, np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    share = np.asarray(grown, np.float32)[..., None] / 255
    glow = np.concatenate([np.interp(share, _STOPS, channel) for channel in _COLOURS.T], axis=-1)
    grey = np.asarray(picture.convert("L"), np.float32)[..., None]
    cover = 0.25 + 0.5 * share
    return Image.fromarray((grey * (1 - cover) + glow * cover).astype(np.uint8))


def _render(template: str, **values: Any) -> str:
    return load_templates("wastetune.serving", percent=_percent).get_template(template).render(**values)


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"
