"""What a data set is called, by its folder, and which data set it is, by its pictures."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

# Words in folder names that say how a data set is stored and not what it shows.
_SILENT = {
    *("data", "dataset", "datasets", "set", "images", "image", "imgs", "img", "files", "raw", "classes", "all"),
    *("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation", "splits"),
    *("input", "inputs", "archive", "download", "downloads", "extracted", "unpacked", "resized", "original"),
    *("tmp", "temp", "home", "users", "root", "mnt", "media", "volumes", "desktop", "documents", "workspace", "work"),
}
_SKETCHED = 64  # hashes in a sketch: enough to tell half of the pictures from none of them
_DIGITS = 10  # of each
_SAME = 0.5  # the share of all pictures that two states of one data set have in common, at least


def name_dataset(folder: Path, given: str | None = None) -> str:
    """The given name, else that of the innermost folder that says something: `wcd` for `/x/wcd/data`.

    No name is taken from the home folder or above it. Where no folder says anything, it is the last one's.
    """
    if given:
        return given
    whole = folder.resolve()
    ours = [each for each in (whole, *whole.parents) if each not in (Path.home(), *Path.home().parents)]
    return next((each.name for each in ours if _says_something(each.name)), whole.name)


def _says_something(name: str) -> bool:
    return not _SILENT.issuperset(re.findall(r"[^\W\d_]+", name.casefold()))


def content_digest(pixels: Iterable[str]) -> str:
    """16 characters that are the same for the same pictures, whatever they are called and however they are split.

    pixels: the sha256 of each picture's pixels.
    """
    return hashlib.sha256("".join(sorted(set(pixels))).encode()).hexdigest()[:16]


def content_sketch(pixels: Iterable[str]) -> str:
    """A few hundred characters by which `are_same` knows a data set again after pictures came or went.

    They are the smallest of the pictures' hashes, which are as good as drawn at random (a bottom-k sketch).
    """
    return " ".join(sorted({each[:_DIGITS] for each in pixels})[:_SKETCHED])


def are_same(one: str, other: str) -> bool:
    """Whether two sketches are of one data set: about half of the pictures of both together, or more, are in both."""
    first, second = set(one.split()), set(other.split())
    smallest = sorted(first | second)[:_SKETCHED]
    return bool(smallest) and len(first & second & {*smallest}) >= _SAME * len(smallest)
