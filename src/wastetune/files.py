"""Atomic writes: a file or folder appears whole or not at all."""

import csv
import io
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

PART_PREFIX = ".part-"  # of the names of files and folders that are being written


def write_whole(path: Path, write: Callable[[Path], object], *, part: Path | None = None) -> None:
    """Writes a file or folder under another name and renames it, so that it is complete or absent, also after a kill.

    `write` gets the path to write to. It lies in the same folder, ends in the same suffix (Keras and NumPy choose the
    format by it) and is unique, so that processes on several machines may write at once. Callers that hold a lock may
    name another `part`: the next writer then overwrites what a killed one left. A folder replaces an empty one only.
    """
    part = part or path.with_name(f"{PART_PREFIX}{secrets.token_hex(4)}-{path.name}")
    try:
        write(part)
        part.replace(path)
    finally:
        remove(part)


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Writes rows as a CSV file in UTF-8, complete or not at all; its folder is made where it is missing."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda part: part.write_text(text.getvalue(), encoding="utf-8", newline=""))


def remove(path: Path) -> None:
    """Deletes a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
