"""Corrections of a data set: what a person decided about its pictures, in a CSV file, and an index that honours it."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from wastetune.data.index import ImageIndex
from wastetune.data.layout import Problem
from wastetune.errors import UserError, suggest
from wastetune.files import open_csv, write_csv

FILE = "corrections.csv"
# Decision -> what it makes of a picture. `keep` says that somebody has looked and all is well.
DECISIONS = {"drop": "dropped", "relabel": "relabelled", "group": "grouped", "keep": "kept"}
_WITH_VALUE = {"relabel": "a class", "group": "a name that the pictures of the group share"}


@dataclass(frozen=True)
class Correction:
    """A line of the file."""

    path: str  # posix, relative to the data set's folder
    decision: str = ""  # one of DECISIONS; empty: nobody has decided, the picture is kept
    value: str = ""  # the class of `relabel`, the name of the group of `group`
    why: str = ""  # for the person who decides


_COLUMNS = tuple(field.name for field in fields(Correction))


def read_corrections(file: Path, classes: Sequence[str]) -> tuple[Correction, ...]:
    """The lines of a file of corrections for a data set with these classes.

    Spreadsheets may write semicolons instead of commas. UserError, with file and line, for the first mistake.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); `wastetune data audit` writes it") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text; save it as CSV with UTF-8") from None
    reader = open_csv(text)
    for column in ("path", "decision"):
        if column not in (reader.fieldnames or ()):
            raise UserError(f"{file} has no column '{column}'; its first line must be {','.join(_COLUMNS)}")
    corrections: list[Correction] = []
    decided: dict[str, str] = {}
    try:
        for row in reader:
            line = Correction(**{name: (row.get(name) or "").strip() for name in _COLUMNS})
            line = replace(line, decision=line.decision.lower())
            if line.decision and (mistake := _mistake(line, classes, decided.get(line.path))):
                raise UserError(f"{file}, line {reader.line_num}: {mistake}")
            if line.decision:
                decided[line.path] = line.decision
            corrections.append(line)
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: {error}") from None
    return tuple(corrections)


def write_corrections(corrections: Iterable[Correction], file: Path) -> None:
    """Writes the file, complete or not at all."""
    write_csv(file, [_COLUMNS, *map(astuple, corrections)])


def merge_corrections(decided: Iterable[Correction], proposed: Iterable[Correction]) -> tuple[Correction, ...]:
    """The lines that a person has decided on, as they are, and then the proposed ones for other pictures."""
    kept = [line for line in decided if line.decision]
    paths = {line.path for line in kept}
    return (*kept, *(line for line in proposed if line.path not in paths))


def correct_index(index: ImageIndex, file: Path) -> ImageIndex:
    """The index with the decisions of a file of corrections carried out.

    Dropped pictures, and decisions on files that the folder does not have, are among its problems. Its `corrected`
    counts the pictures that each decision has changed. UserError as in `read_corrections`.
    """
    decided = {(line.path, line.decision): line.value for line in read_corrections(file, index.classes)}
    problems = list(index.problems)
    pictures = []
    corrected = dict.fromkeys(("drop", "relabel", "group"), 0)
    for picture in index.pictures:
        if (picture.path, "drop") in decided:
            problems.append(Problem(picture.path, f"dropped by {file.name}"))
            corrected["drop"] += 1
            continue
        label = picture.label
        if name := decided.get((picture.path, "relabel")):
            label = index.classes.index(name)
        group = decided.get((picture.path, "group"))
        corrected["relabel"] += label != picture.label
        corrected["group"] += group is not None
        pictures.append(replace(picture, label=label, group=group))
    known = {picture.path for picture in index.pictures} | {problem.path for problem in index.problems}
    missing = dict.fromkeys(path for path, decision in decided if decision and path not in known)
    problems += [Problem(path, f"not in the folder, but in {file.name}") for path in missing]
    return replace(
        index,
        pictures=tuple(pictures),
        problems=tuple(sorted(problems, key=lambda problem: problem.path)),
        corrected={decision: count for decision, count in corrected.items() if count},
    )


def render_corrected(corrected: Mapping[str, int]) -> str:
    """What was corrected, as a phrase: `2 dropped, 1 relabelled`."""
    return ", ".join(f"{count:,} {DECISIONS[decision]}" for decision, count in corrected.items())


def _mistake(line: Correction, classes: Sequence[str], earlier: str | None) -> str | None:
    """What is wrong with a decision; `earlier` is the one of an earlier line about the same picture."""
    if line.decision not in DECISIONS:
        return f"'{line.decision}' is no decision; {suggest(line.decision, DECISIONS)}"
    if not line.path:
        return "the path is missing"
    if line.decision in _WITH_VALUE and not line.value:
        return f"{line.decision} needs {_WITH_VALUE[line.decision]} in the column 'value'"
    if line.decision == "relabel" and line.value not in classes:
        return f"'{line.value}' is no class of the data set; {suggest(line.value, classes)}"
    # Another class and a group go together; of anything else that is said twice, one would be lost.
    if earlier and {earlier, line.decision} != {"relabel", "group"}:
        return f"{line.path} has a decision in an earlier line, {earlier}; leave one of them"
    return None
