"""One picture file as upright RGB pixels, and pictures as small JPEGs for a page."""

import base64
import hashlib
import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wastetune.errors import UserError, first_line

MAX_PIXELS = 80_000_000  # below the size at which Pillow itself warns
MAX_BYTES = 256 * 2**20

# An explicit list, because Pillow opens some other formats (EPS) with an external program.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")

ORIENTATION_TAG = 0x0112
TILE_WIDTH_TAG, TILE_HEIGHT_TAG = 0x0142, 0x0143
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BAND_PIXELS = 2**20
# The value of white where Pillow's own conversion to 8 bits would only clip.
WHITE = {"I": 65535.0, "I;16": 65535.0, "I;16B": 65535.0, "I;16L": 65535.0, "F": 1.0}


def read_picture(path: Path) -> Image.Image:
    """The upright 8-bit RGB picture in a file, on white where it is transparent; an animation's first frame.

    Raises UserError when the file is missing, broken, too large or not a picture.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(TOO_MANY_BYTES)
        return decode_picture(path.read_bytes())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"Cannot use {path}: {error}.") from error


TOO_MANY_BYTES = f"larger than {MAX_BYTES // 2**20} MiB"


def decode_picture(content: bytes) -> Image.Image:
    """The same for the bytes of a file. Raises ValueError with the reason, a phrase, when they are not a picture."""
    return load_pixels(open_picture(content))


def open_picture(content: bytes, most_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in the bytes of a file, with only its header read; `load_pixels` reads the rest.

    Raises ValueError with the reason, a phrase, when it is not a picture or has more than `most_pixels` in memory.
    """
    if not content:
        raise ValueError("empty file")
    too_many = f"more than {most_pixels / 10**6:g} million pixels"
    try:
        picture = Image.open(io.BytesIO(content), formats=_formats())
        pixels = max(picture.width * picture.height, _tile_pixels(picture))
    except UnidentifiedImageError:
        raise ValueError("not a picture Pillow can read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(too_many) from None
    except Exception as error:  # Pillow raises any exception for a broken header
        raise ValueError(f"broken: {first_line(error)}") from error
    if pixels > most_pixels:
        raise ValueError(too_many)
    return picture


def load_pixels(picture: Image.Image) -> Image.Image:
    """The upright 8-bit RGB pixels of an opened picture. Raises ValueError with the reason when it is broken."""
    try:
        picture.load()
        return _rgb(_upright(picture))
    except Exception as error:  # as above
        raise ValueError(f"broken: {first_line(error)}") from error


def resize_picture(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """An RGB picture resized to (size, size, 3) uint8, antialiased, without keeping its aspect ratio.

    Training, serving and prediction all resize with this function.
    """
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))


def pixels_hash(picture: Image.Image) -> str:
    """The sha256 (hex) of an RGB picture's size and pixels, equal for files with the same pixels."""
    return hashlib.sha256(f"{picture.width}x{picture.height}:".encode() + picture.tobytes()).hexdigest()


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _tile_pixels(picture: Image.Image) -> int:
    """The pixels of a TIFF's tile: Pillow decodes whole tiles, which may be larger than the picture."""
    tags: Any = getattr(picture, "tag_v2", {})
    return int(tags.get(TILE_WIDTH_TAG, 0)) * int(tags.get(TILE_HEIGHT_TAG, 0))


def _upright(picture: Image.Image) -> Image.Image:
    try:
        turn = UPRIGHT.get(picture.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # a picture with a broken EXIF block is still usable
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return picture
    if picture.mode not in WHITE and not picture.has_transparency_data:
        return picture.convert("RGB")
    # In bands, because the conversion needs several times the memory of its input.
    whole = Image.new("RGB", picture.size)
    rows = max(1, BAND_PIXELS // picture.width)
    for top in range(0, picture.height, rows):
        band = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        whole.paste(_grey(band) if band.mode in WHITE else _on_white(band), (0, top))
    return whole


def _grey(picture: Image.Image) -> Image.Image:
    levels = np.asarray(picture, np.float32) * (255.0 / WHITE[picture.mode])
    return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8)).convert("RGB")


def _on_white(picture: Image.Image) -> Image.Image:
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


THUMBNAIL_SIDE = 168  # pixels of the longer side
_THUMBNAIL_QUALITY = 72


def draw_thumbnail(path: Path) -> str | None:
    """The data URI of a small JPEG of a picture file; None if the file can no longer be read."""
    try:
        picture = read_picture(path)
    except UserError:
        return None
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return encode_jpeg(picture, _THUMBNAIL_QUALITY)


def encode_jpeg(picture: Image.Image, quality: int) -> str:
    """The data URI of a picture as JPEG."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
