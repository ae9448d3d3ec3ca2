"""Pictures that change while a study lives: noticed before a trial is spent, and told by name."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from wastetune.data.index import ImageIndex, index_folder
from wastetune.data.splits import read_split_table
from wastetune.errors import Say, UserError

Pictures = Mapping[str, tuple[str, str]]  # path -> class and bytes_sha256
_SHARE = 0.01  # of the time that looking may take
_NAMED = 5


def folder_stamp(folder: Path) -> str:
    """A text that changes when a file in the folder is added, removed, renamed or written to. No file is read."""
    hashed, seen = hashlib.sha256(), set()

    def visit(path: Path) -> None:
        status = path.stat()
        if (status.st_dev, status.st_ino) in seen:  # a link that leads in a circle
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                visit(path / entry.name)
                continue
            with suppress(FileNotFoundError):  # a link that leads nowhere
                status = entry.stat()
                hashed.update(os.fsencode(f"{entry.path} {status.st_size} {status.st_mtime_ns}\n"))

    try:
        visit(folder)
    except OSError as error:  # unmounted, perhaps; or changed in this moment
        hashed.update(str(error).encode())
    return hashed.hexdigest()


def watch_pictures(index: ImageIndex, stamp: str, cache: Path, say: Say) -> Callable[[], None]:
    """A function that raises UserError, with the names, once the folder has other pictures than the index.

    stamp: the folder's, from before it was indexed. Files are read only where it has changed.
    """
    known = stamp

    def check() -> None:
        nonlocal known
        now = folder_stamp(index.folder)
        if now == known:
            return
        found = index_folder(index.folder, cache=cache, say=say)
        if changes := render_changes(pictures_of(index), pictures_of(found)):
            raise UserError(
                f"the pictures in {index.folder} have changed since this run began: {changes}; put them back and give "
                "the same command again, or begin another study: copy the study's file to a new name. What is "
                "finished is kept"
            )
        known = now

    return check


def seldom(check: Callable[[], None]) -> Callable[[], None]:
    """The same function, but it does nothing while more than a hundredth of the time would be spent in it."""
    due = time.monotonic()

    def check_if_due() -> None:
        nonlocal due
        started = time.monotonic()
        if started >= due:
            check()
            ended = time.monotonic()
            due = ended + (ended - started) / _SHARE

    return check_if_due


def pictures_of(index: ImageIndex) -> Pictures:
    """The pictures of an index, to be compared with those of another."""
    return {each.path: (index.classes[each.label], each.bytes_sha256) for each in index.pictures}


def changes_since(split_table: Path, digest: str, index: ImageIndex) -> str:
    """What has happened to the pictures since a split.csv with this digest was written; empty where it has another."""
    try:
        content = split_table.read_bytes()
    except OSError:
        return ""
    if not hashlib.sha256(content).hexdigest().startswith(digest):
        return ""
    then = {row.path: (row.class_name, row.bytes_sha256) for row in read_split_table(split_table)}
    return render_changes(then, pictures_of(index))


def render_changes(then: Pictures, now: Pictures) -> str:
    """What has happened to which pictures, the first five of them; empty where nothing has."""
    gone = {path: content for path, (_, content) in then.items() if path not in now}
    new = {path: content for path, (_, content) in now.items() if path not in then}
    place = {content: path for path, content in new.items()}
    renamed = {path: place[content] for path, content in gone.items() if content in place}
    happened = [f"{path} is now {renamed[path]}" if path in renamed else f"{path} is gone" for path in gone]
    happened += [f"{path} is new" for path in new if path not in renamed.values()]
    for path in then.keys() & now.keys():
        (class_then, content_then), (class_now, content_now) = then[path], now[path]
        if content_then != content_now:
            happened.append(f"{path} was replaced")
        elif class_then != class_now:
            happened.append(f"{path} was {class_then} and is now {class_now}")
    happened.sort()
    more = [f"and {len(happened) - _NAMED} more"] if len(happened) > _NAMED else []
    return ", ".join(happened[:_NAMED] + more)
