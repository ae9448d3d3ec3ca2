"""The files of a data set's folder: `<class>/**/<file>`, or in parts, `train/<class>/**/<file>` and `test/...`.

A table of labels, such as Kaggle's or that of Hugging Face's `imagefolder`, takes the place of class folders.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wastetune.data.label_table import find_table
from wastetune.errors import UserError

# Part -> what its folder may be called, in any case.
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@dataclass(frozen=True)
class PictureFile:
    """A file in a class folder. It has not been read yet, so it need not be a picture."""

    path: str  # posix, relative to the data set's folder
    class_name: str
    own_split: str | None  # "train", "val" or "test" where the data set comes split, else None


@dataclass(frozen=True)
class Problem:
    """A file or folder that was left out, and why."""

    path: str
    what: str


def find_files(folder: Path) -> tuple[list[PictureFile], list[Problem]]:
    """The files of all classes, sorted by path, and the files and folders that belong to no class.

    Hidden files and the __MACOSX folders of archives are ignored.
    Raises UserError when the folder does not exist, or two classes differ only in case.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"The data folder {folder} {what}; name a folder with one subfolder per class.")
    files: list[PictureFile] = []
    problems: list[Problem] = []

    def leave_out(path: Path, what: str) -> None:
        problems.append(Problem(_readable(path.relative_to(folder).as_posix()), what))

    if rows := find_table(folder, PARTS):
        files = [PictureFile(*row) for row in sorted(rows)]
        known = {file.path for file in files}
        others = [path for path in _walk(folder) if path.suffix.lower() in _PICTURES and not path.is_dir()]
        if left := [path for path in others if path.relative_to(folder).as_posix() not in known]:
            problems.append(Problem(".", f"{len(left)} pictures that the table of labels does not have"))
        _check_names({file.class_name for file in files}, folder)
        return files, problems
    sides = _own_sides(folder)
    for side, side_folder in sides.items() if sides else [(None, folder)]:
        for child in _visible(side_folder):
            if not child.is_dir():
                leave_out(child, "outside every class folder")
                continue
            inside = list(_walk(child))
            if not inside:
                leave_out(child, "an empty folder: not a class")
            for path in inside:
                name = path.relative_to(folder).as_posix()
                if path.is_dir():
                    leave_out(path, "a link to a folder inside a class is not followed")
                elif name != _readable(name):
                    leave_out(path, "its name is not valid text")
                else:
                    files.append(PictureFile(name, child.name, side))
    if sides:
        for other in _visible(sides["train"].parent):
            if other not in sides.values():
                leave_out(other, f"not in {' or '.join(part.name for part in sides.values())}")
    _check_names({file.class_name for file in files}, folder)
    return sorted(files, key=lambda file: file.path), problems


def _own_sides(folder: Path) -> dict[str, Path]:
    """Part -> folder of a data set that comes split; empty for one that does not."""
    children = {child.name.lower(): child for child in _visible(folder) if child.is_dir()}
    found = {part: [children[word] for word in words if word in children] for part, words in PARTS.items()}
    for part, folders in found.items():
        if len(folders) > 1 and found["train"]:
            names = " and ".join(each.name for each in folders)
            raise UserError(f"{folder} holds {names}, which both mean {part}; put their pictures into one of them")
    sides = {part: folders[0] for part, folders in found.items() if folders}
    if "train" in sides and len(sides) > 1:
        return sides
    if children and len(sides) == len(children):
        raise UserError(
            f"{folder} holds {' and '.join(each.name for each in sides.values())}, which are no classes; wastetune "
            "takes one folder per class, or train and test (and val) with the classes inside"
        )
    return _own_sides(children["dataset"]) if "dataset" in children else {}


def _check_names(names: set[str], folder: Path) -> None:
    same: dict[str, str] = {}
    for name in sorted(names):
        other = same.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(
                f"the classes {other!r} and {name!r} in {folder} differ only in case; give their folders one name"
            )


def _walk(folder: Path) -> Iterator[Path]:
    for child in _visible(folder):
        if child.is_dir() and not child.is_symlink():
            yield from _walk(child)
        else:
            yield child


def _visible(folder: Path) -> list[Path]:
    names = sorted(child.name for child in folder.iterdir())
    return [folder / name for name in names if not name.startswith(".") and name != "__MACOSX"]


def _readable(name: str) -> str:
    """The name, with escapes for the bytes that are not UTF-8, which a CSV file could not hold."""
    return name.encode("utf-8", "backslashreplace").decode()
