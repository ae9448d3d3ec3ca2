"""The files of a data set's folder: `<class>/**/<file>`, or `TRAIN/<class>/**/<file>` and `TEST/<class>/**/<file>`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wastetune.errors import UserError


@dataclass(frozen=True)
class PictureFile:
    """A file in a class folder. It has not been read yet, so it need not be a picture."""

    path: str  # posix, relative to the data set's folder
    class_name: str
    own_split: str | None  # "train" or "test" where the data set comes split, else None


@dataclass(frozen=True)
class Problem:
    """A file or folder that was left out, and why."""

    path: str
    what: str


def find_files(folder: Path) -> tuple[list[PictureFile], list[Problem]]:
    """The files of all classes, sorted by path, and the files and folders that belong to no class.

    Hidden files and the __MACOSX folders of archives are ignored.
    Raises UserError when the folder does not exist.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"The data folder {folder} {what}; name a folder with one subfolder per class.")
    files: list[PictureFile] = []
    problems: list[Problem] = []

    def leave_out(path: Path, what: str) -> None:
        problems.append(Problem(_readable(path.relative_to(folder).as_posix()), what))

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
                leave_out(other, "neither in TRAIN nor in TEST")
    return sorted(files, key=lambda file: file.path), problems


def _own_sides(folder: Path) -> dict[str, Path]:
    """Side -> folder of a data set that comes split; empty for one that does not."""
    children = {child.name.lower(): child for child in _visible(folder) if child.is_dir()}
    if {"train", "test"} <= children.keys():
        return {"train": children["train"], "test": children["test"]}
    if children and children.keys() <= {"train", "val", "valid", "validation", "test"}:
        raise UserError(
            f"{folder} holds {' and '.join(children)}, which are no classes; wastetune takes one folder per class, "
            "or TRAIN and TEST with the classes inside, and splits off its own validation pictures"
        )
    return _own_sides(children["dataset"]) if "dataset" in children else {}


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
