"""Which class of a model each class folder stands for: the same name, or a line of a small table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wastetune.errors import UserError, suggest
from wastetune.files import open_csv

COLUMNS = ("folder_class", "model_class")


@dataclass(frozen=True)
class ClassNames:
    """Each class of a folder with the class of the model that it stands for; None: its pictures are left out."""

    model_class: Mapping[str, str | None]
    alike: Mapping[str, str]  # of these, the ones whose names differ in case, spaces, hyphens or underscores alone
    unused: tuple[str, ...]  # classes of the table that the folder does not have


def match_classes(folder: Sequence[str], model: Sequence[str], table: Mapping[str, str | None]) -> ClassNames:
    """The classes of a folder matched to those of a model: by the table, else by name.

    UserError where a class of the folder is not in the table and the model has none of its name, and where the table
    names a class that the model does not have.
    """
    wrong = sorted({name for name in table.values() if name is not None and name not in model})
    if wrong:
        raise UserError(
            f"the table's {COLUMNS[1]} {_quoted(wrong)} is no class of the model; {suggest(wrong[0], model)}"
        )
    found: dict[str, str | None] = {}
    alike = {}
    for name in folder:
        if name in table:
            found[name] = table[name]
        elif name in model:
            found[name] = name
        elif len(same := [each for each in model if _plain(each) == _plain(name)]) == 1:
            found[name] = alike[name] = same[0]
    if unknown := [name for name in folder if name not in found]:
        raise UserError(
            f"the model does not know {_quoted(unknown)}, only {_quoted(model)}; write a CSV file with the columns "
            f"{','.join(COLUMNS)} and a line for each of them (nothing after the comma leaves its pictures out), and "
            "name it with --classes"
        )
    return ClassNames(found, alike, tuple(name for name in table if name not in folder))


def read_class_table(path: Path) -> dict[str, str | None]:
    """The lines of a CSV file with the columns folder_class and model_class, separated by commas or semicolons.

    An empty model_class becomes None. UserError where it cannot be read, or gives a class two meanings.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"the table of classes {path} cannot be read: {reason}") from None
    reader = open_csv(text)
    if set(COLUMNS) - set(reader.fieldnames or ()):
        raise UserError(f"the table of classes {path} must begin with the line {','.join(COLUMNS)}")
    table: dict[str, str | None] = {}
    for row in reader:
        name, stands_for = ((row[column] or "").strip() or None for column in COLUMNS)
        if name is None:
            raise UserError(f"{path}, line {reader.line_num}, has no {COLUMNS[0]}")
        if table.setdefault(name, stands_for) != stands_for:
            raise UserError(f"{path} names the class {name!r} twice, with different classes of the model; keep one")
    return table


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
