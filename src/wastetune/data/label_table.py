"""Labels from a CSV file beside the pictures: a row for each picture, with its path and its class."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wastetune.errors import UserError
from wastetune.files import open_csv

_NAMES = ("labels.csv", "metadata.csv", "train.csv")  # ours and many others', Hugging Face's, Kaggle's
_PATHS = ("path", "file_name", "filename", "file", "image", "image_id", "id")
_LABELS = ("label", "class", "class_name", "category")
_SPLITS = ("split", "part", "set", "subset")
_SUFFIXES = ("", ".jpg", ".jpeg", ".png")

Row = tuple[str, str, str | None]  # path relative to the folder, class, own part


def find_table(folder: Path, parts: Mapping[str, Sequence[str]]) -> list[Row]:
    """The rows of a folder's table of labels, or of those of its parts; none where it has no such table.

    A table is labels.csv, metadata.csv or train.csv, with a column for the path and one for the class, perhaps one for
    the part, whose first picture exists. Paths are relative to the table or to a folder beside it, and may lack the
    suffix.
    parts: part -> what it may be called. UserError for a row whose picture or part is not known.
    """
    words = {word: part for part, names in parts.items() for word in names}
    if (file := _table_in(folder)) is not None:
        return _read(file, folder, words, None)
    rows: list[Row] = []
    for child in sorted(folder.iterdir()):
        part = words.get(child.name.lower())
        if part and child.is_dir() and (file := _table_in(child)) is not None:
            rows += _read(file, folder, words, part)
    return rows


def _table_in(folder: Path) -> Path | None:
    """The table of labels in a folder, if its first row names a picture that is there."""
    for name in _NAMES:
        file = folder / name
        if not file.is_file():
            continue
        reader = open_csv(_text(file))
        path, label, _ = _columns(reader.fieldnames or ())
        first = next(reader, None)
        if path and label and first and _locate(_places(folder), first[path] or ""):
            return file
    return None


def _text(file: Path) -> str:
    with file.open(encoding="utf-8-sig", newline="", errors="replace") as stream:
        return stream.read()


def _columns(names: Sequence[str]) -> tuple[str | None, ...]:
    """The columns of path, class and part."""
    lower = {name.strip().lower(): name for name in names}
    return tuple(next((lower[each] for each in known if each in lower), None) for known in (_PATHS, _LABELS, _SPLITS))


def _read(file: Path, folder: Path, words: Mapping[str, str], part: str | None) -> list[Row]:
    """The rows of a table. words: what a part may be called -> part; part: that of all its pictures."""
    rows: dict[str, Row] = {}
    places = _places(file.parent)
    reader = open_csv(_text(file))
    path, label, split = _columns(reader.fieldnames or ())
    assert path is not None
    assert label is not None  # as `_table_in` has seen
    for line in reader:
        name, label_name = (line[path] or "").strip(), (line[label] or "").strip()
        where = f"{file}, line {reader.line_num}"
        if not label_name:
            raise UserError(f"{where}: {name!r} has no class; write one, or delete the line")
        picture = _locate(places, name)
        if picture is None:
            raise UserError(f"{where}: there is no picture {name!r}; add it, or delete the line")
        side = part
        if split and (word := (line[split] or "").strip().lower()):
            if word not in words:
                raise UserError(f"{where}: {word!r} is no part of a data set; write train, val or test")
            side = words[word]
        known = picture.relative_to(folder).as_posix()
        if known in rows and rows[known][1] != label_name:
            raise UserError(f"{where}: {name!r} has another class in an earlier line; leave one of them")
        rows[known] = (known, label_name, side)
    if any(side for _, _, side in rows.values()) and not all(side for _, _, side in rows.values()):
        raise UserError(f"{file}: some pictures have a part and others have none; fill in the column {split!r}")
    return list(rows.values())


def _places(folder: Path) -> list[Path]:
    """Where the pictures of a table in this folder may be."""
    return [folder, *(child for child in sorted(folder.iterdir()) if child.is_dir())]


def _locate(places: Sequence[Path], name: str) -> Path | None:
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        return None
    for suffix in _SUFFIXES:
        for place in places:
            if (file := place / f"{name}{suffix}").is_file():
                return file
    return None
