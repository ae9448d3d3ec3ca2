"""A small synthetic data set for demonstrations and tests: drawings of four objects, and a few unusual files."""

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from wastetune.errors import UserError
from wastetune.files import write_whole
from wastetune.seeding import seed_for

Points = list[tuple[float, float]]
Colour = tuple[int, int, int]

CLASSES = ("bottle", "box", "can", "leaf")


def write_sample(
    folder: Path,
    *,
    classes: Sequence[str] = CLASSES,
    per_class: int = 60,
    size: int = 128,
    seed: int = 0,
    odd_files: bool = True,
) -> Path:
    """The folder, filled with ``per_class`` JPEG pictures of size x size pixels for each class.

    Classes differ in shape and, as real waste does, mostly in colour: nine bodies in ten have the colour of their
    material. Position, size, rotation and background have the same distribution in all classes. ``odd_files`` adds
    an exact duplicate in another class, a PNG named .jpg and a broken file.
    The same arguments give the same pictures. Raises UserError for an unknown class or a folder that is not empty.
    """
    unknown = [name for name in classes if name not in _OUTLINES]
    if unknown:
        raise UserError(f"No drawing of {', '.join(unknown)}: choose from {', '.join(_OUTLINES)}.")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name a new folder for the sample.")

    def write(part: Path) -> None:
        for name in classes:
            (part / name).mkdir(parents=True)
            for number in range(per_class):
                picture = _draw(name, size, seed_for("sample", seed, name, number))
                picture.save(part / name / f"{name}{number:03d}.jpg", quality=88)
        if odd_files:
            _add_odd_files(part, classes, size, seed)
        if folder.exists():
            folder.rmdir()  # it is empty; Windows renames over no folder

    write_whole(folder, write)
    return folder


def _add_odd_files(folder: Path, classes: Sequence[str], size: int, seed: int) -> None:
    first, last = folder / classes[0], folder / classes[-1]
    shutil.copyfile(first / f"{classes[0]}000.jpg", last / "also_elsewhere.jpg")
    _draw(classes[0], size, seed_for("sample", seed, "odd")).save(first / "really_a_png.jpg", format="PNG")
    whole = (first / f"{classes[0]}000.jpg").read_bytes()
    (last / "broken.jpg").write_bytes(whole[: len(whole) // 2])


def _draw(name: str, size: int, seed: int) -> Image.Image:
    rng = random.Random(seed)
    scale = 2  # drawn larger, then shrunk: smooth edges
    picture = _background(rng, size * scale)
    for _ in range(rng.randint(1, 3)):
        _draw_clutter(rng, picture)
    material = _MATERIALS[name] if rng.random() < _TYPICAL else None
    _draw_object(rng, picture, _OUTLINES[name](rng), material)
    picture = picture.resize((size, size), Image.Resampling.BOX)
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.0) * size / 128))
    noise = np.random.default_rng(seed).normal(0, rng.uniform(2, 8), (size, size, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def _background(rng: random.Random, size: int) -> Image.Image:
    """A gradient between two pale greys, in a random direction."""
    across, down = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    turn = rng.uniform(0, 2 * np.pi)
    share = (0.5 + 0.35 * (across * np.cos(turn) + down * np.sin(turn)))[..., None]
    first, second = (np.array(_pale_colour(rng)) for _ in range(2))
    return Image.fromarray(np.clip(first * share + second * (1 - share), 0, 255).astype(np.uint8))


def _draw_clutter(rng: random.Random, picture: Image.Image) -> None:
    pen, size = ImageDraw.Draw(picture), picture.width
    x, y = rng.uniform(0, size), rng.uniform(0, size)
    reach = size * rng.uniform(0.05, 0.2)
    match rng.randrange(3):
        case 0:
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=_pale_colour(rng))
        case 1:
            corners = [(x + rng.uniform(-1, 1) * reach, y + rng.uniform(-1, 1) * reach) for _ in range(3)]
            pen.polygon(corners, fill=_pale_colour(rng))
        case _:
            end = (rng.uniform(0, size), rng.uniform(0, size))
            pen.line(((x, y), end), fill=_pale_colour(rng), width=rng.randint(2, max(3, size // 40)))


def _draw_object(rng: random.Random, picture: Image.Image, parts: list[Points], material: Colour | None) -> None:
    """Draws an object: rotates, scales and places its outlines in [-1, 1]^2. The first, its body, is drawn first."""
    pen, size = ImageDraw.Draw(picture), picture.width
    turn, reach = rng.uniform(-0.4, 0.4), size * rng.uniform(0.28, 0.42)
    if rng.random() < 0.15:
        turn += np.pi / 2
    middle_x, middle_y = (size * rng.uniform(0.35, 0.65) for _ in range(2))
    squeeze = rng.uniform(0.8, 1.2)
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    edge = _any_colour(rng)
    for number, part in enumerate(parts):
        fill = _vary(material, rng, 40) if material and number == 0 else _any_colour(rng)
        outline = [
            (
                middle_x + reach * (x * squeeze * cos - y * sin),
                middle_y + reach * (x * squeeze * sin + y * cos),
            )
            for x, y in part
        ]
        pen.polygon(outline, fill=fill, outline=edge, width=max(1, size // 100))


def _bottle(rng: random.Random) -> list[Points]:
    body, neck = rng.uniform(0.28, 0.42), rng.uniform(0.1, 0.16)
    shoulder = rng.uniform(-0.35, -0.05)
    right = [(neck, -0.9), (neck, shoulder - 0.2), (body, shoulder + 0.1), (body, 0.95)]
    cap = _rectangle(-neck * 1.3, -1.0, neck * 1.3, -0.85)
    label = _rectangle(-body, 0.3, body, 0.3 + rng.uniform(0.2, 0.5))
    return [[*right, *((-x, y) for x, y in reversed(right))], cap, label]


def _can(rng: random.Random) -> list[Points]:
    wide, tall = rng.uniform(0.36, 0.55), rng.uniform(0.6, 0.9)
    flat = rng.uniform(0.08, 0.2)
    body = [*_arc(0, tall, wide, flat, 0, np.pi), (-wide, -tall), (wide, -tall)]
    return [body, _arc(0, -tall, wide, flat, 0, 2 * np.pi), _arc(0, -tall, wide / 3, flat / 3, 0, 2 * np.pi)]


def _box(rng: random.Random) -> list[Points]:
    wide, tall = rng.uniform(0.4, 0.65), rng.uniform(0.45, 0.8)
    x, y = rng.choice((-1, 1)) * rng.uniform(0.15, 0.35), -rng.uniform(0.15, 0.35)
    front = _rectangle(-wide, -tall, wide, tall)
    top = [(-wide, -tall), (wide, -tall), (wide + x, -tall + y), (-wide + x, -tall + y)]
    side_x = wide if x > 0 else -wide
    side = [(side_x, -tall), (side_x, tall), (side_x + x, tall + y), (side_x + x, -tall + y)]
    return [front, top, side]


def _leaf(rng: random.Random) -> list[Points]:
    wide, bend = rng.uniform(0.3, 0.6), rng.uniform(-0.25, 0.25)
    steps = np.linspace(-0.9, 0.8, 20)
    profile = np.sqrt(np.clip(1 - (np.abs(steps + 0.05) / 0.85) ** rng.uniform(1.2, 2.0), 0, 1)) * wide
    spine = bend * (1 - steps**2)
    right = [(float(s + p), float(t)) for s, p, t in zip(spine, profile, steps, strict=True)]
    left = [(float(s - p), float(t)) for s, p, t in zip(spine, profile, steps, strict=True)]
    vein = [(float(s), float(t)) for s, t in zip(spine, steps, strict=True)]
    stalk = [*vein, (0.02, 1.05), (0.06, 1.05), *((x + 0.04, y) for x, y in reversed(vein))]
    return [right + left[::-1], stalk]


_OUTLINES: dict[str, Callable[[random.Random], list[Points]]] = {
    "bottle": _bottle,
    "box": _box,
    "can": _can,
    "leaf": _leaf,
}
# The usual colour of a body: green glass, brown cardboard, blue tin, a red autumn leaf.
_MATERIALS: dict[str, Colour] = {
    "bottle": (30, 150, 70),
    "box": (200, 160, 95),
    "can": (60, 90, 200),
    "leaf": (215, 60, 40),
}
_TYPICAL = 0.9  # the share of bodies in that colour


def _rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _arc(x: float, y: float, wide: float, tall: float, start: float, end: float) -> Points:
    turns = np.linspace(start, end, 24)
    return [(float(x + wide * np.cos(turn)), float(y + tall * np.sin(turn))) for turn in turns]


def _vary(colour: Colour, rng: random.Random, reach: int) -> Colour:
    red, green, blue = (min(255, max(0, part + rng.randint(-reach, reach))) for part in colour)
    return red, green, blue


def _pale_colour(rng: random.Random) -> Colour:
    """The colour of tables, walls and scraps of paper."""
    grey = rng.randint(130, 225)
    return _vary((grey, grey, grey), rng, 18)


def _any_colour(rng: random.Random) -> Colour:
    return rng.randint(10, 245), rng.randint(10, 245), rng.randint(10, 245)
