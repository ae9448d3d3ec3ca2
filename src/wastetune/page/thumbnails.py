"""Pictures small enough to travel inside a page."""

import base64
import io
from pathlib import Path

from PIL import Image

from wastetune.data.picture import read_picture
from wastetune.errors import UserError

SIDE = 168  # pixels of the longer side
_QUALITY = 72


def draw_thumbnail(path: Path) -> str | None:
    """A data URI of a small JPEG; None where there is no such picture any more."""
    try:
        picture = read_picture(path)
    except UserError:
        return None
    picture.thumbnail((SIDE, SIDE))
    return encode_jpeg(picture, _QUALITY)


def encode_jpeg(picture: Image.Image, quality: int) -> str:
    """A picture as the address of an image that holds it."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
