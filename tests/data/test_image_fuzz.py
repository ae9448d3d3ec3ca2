"""Whatever is in a file of a picture: its pixels, or ValueError with a phrase; within bounds of memory and time."""

import io
import resource
import time

import numpy as np
import pytest
from PIL import Image

from support.fuzz import examples
from wastetune.data.image import MAX_PIXELS, decode_picture

hypothesis = pytest.importorskip("hypothesis", reason="needs pip install '.[dev]'")
from hypothesis import strategies as st  # noqa: E402

KINDS = {
    "JPEG": {"quality": 80},
    "JPEG progressive": {
        "progressive": True,
        "exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
    },
    "PNG": {},
    "WEBP": {},
    "TIFF": {},
    "TIFF deflated": {"compression": "tiff_deflate"},
    "GIF": {"save_all": True},
    "BMP": {},
    "PPM": {},
    "JPEG2000": {},
}
MOST_SECONDS, MOST_MEMORY = 20.0, 2 * 2**30  # what 80 million pixels may take here


def draw(kind):
    noise = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    first, content = Image.fromarray(noise), io.BytesIO()
    options = dict(KINDS[kind])
    if "save_all" in options:
        options["append_images"] = [Image.fromarray(255 - noise)]
    first.save(content, kind.split()[0], **options)
    return content.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_pictures(kind):
    whole = draw(kind)
    assert decode_picture(whole).mode == "RGB"

    @examples(60)
    @hypothesis.given(st.data())
    def decode(data):
        content = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 4))):
            begin = data.draw(st.integers(0, max(len(content) - 1, 0)))
            length = data.draw(st.integers(1, 30))
            match data.draw(st.sampled_from(["flip", "flip", "cut out", "cut off", "double", "put"])):
                case "flip" if content:
                    content[begin] ^= data.draw(st.integers(1, 255))
                case "cut out":
                    del content[begin : begin + length]
                case "cut off":
                    del content[begin:]
                case "double":
                    content[begin:begin] = content[begin : begin + 8 * length]
                case _:
                    content[begin : begin + 4] = data.draw(
                        st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\xff\xff"])
                    )
        began = time.monotonic()
        try:
            picture = decode_picture(bytes(content))
            assert picture.mode == "RGB"
            assert 0 < picture.width * picture.height <= MAX_PIXELS
        except ValueError as error:
            told = str(error)
            assert told
            assert "\n" not in told
        assert time.monotonic() - began < MOST_SECONDS

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    decode()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY / 1024
