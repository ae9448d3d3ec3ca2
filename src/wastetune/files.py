"""Atomic writes: a file or folder appears whole or not at all. Checksums: damage that comes later is noticed."""

import csv
import errno
import io
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

PART_PREFIX = ".part-"  # of the names of files and folders that are being written
CHECKSUM_BYTES = 8
_AT_ONCE = 2**18  # bytes, which a processor's cache holds


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
    except Exception as error:
        # Libraries raise anything here; a plain OSError lacks the path where a write failed, not the opening.
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = error.filename or str(path)
        elif _is_full(path.parent, error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        remove(part)


_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def file_lock(path: Path, timeout: float = -1) -> Iterator[None]:
    """Holds a lock file, released when the process ends; goes on without it where the file system has no locks.

    On some file systems of networks a lock is granted to several processes at once: it saves work and must not be all
    that keeps a file whole. Raises `filelock.Timeout` after `timeout` seconds; by default it waits for ever.
    """
    from filelock import FileLock  # here: `wastetune serve` is installed without it

    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(path).acquire(timeout=timeout))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def _is_full(folder: Path, error: Exception) -> bool:
    """Whether an error that does not say so by its type comes from a full disk."""
    return "No space left on device" in str(error) or shutil.disk_usage(folder).free < _AT_ONCE


def checksum(name: str, content: "Buffer") -> bytes:
    """CHECKSUM_BYTES bytes that change when the content is damaged, or is taken for that of another name.

    For accidents, at the speed of memory; who forges content can forge its checksum.
    """
    from xxhash import xxh3_64_digest

    return xxh3_64_digest(content, seed=_seed(name))


def seal(path: Path, name: str) -> None:
    """Adds to a file the checksum of its content under a name; `is_sound` tells later whether it is still the same."""
    with path.open("rb", buffering=0) as file:
        found = _read_checksum(file, path.stat().st_size, name)
    with path.open("ab") as end:
        end.write(found)


def is_sound(path: Path, name: str) -> bool:
    """Whether a file ends with the checksum of its content under this name. FileNotFoundError where there is none."""
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size - CHECKSUM_BYTES
        try:
            return size >= 0 and _read_checksum(file, size, name) == file.read()
        except OSError:  # a bad sector; read through a memory map, it would kill the process
            return False


def _read_checksum(file: io.FileIO, size: int, name: str) -> bytes:
    """The checksum of the first `size` bytes of a file."""
    from xxhash import xxh3_64

    hashed, buffer = xxh3_64(seed=_seed(name)), memoryview(bytearray(_AT_ONCE))
    while size > 0 and (count := file.readinto(buffer[: min(size, _AT_ONCE)])):
        hashed.update(buffer[:count])
        size -= count
    return hashed.digest()


def _seed(name: str) -> int:
    from xxhash import xxh3_64_intdigest  # here: `wastetune serve` is installed without it

    return xxh3_64_intdigest(name.encode())


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


def open_csv(text: str) -> "csv.DictReader[str]":
    """A reader of a table with a header; its columns are separated by commas or, as some spreadsheets do, by `;`."""
    head = text.partition("\n")[0]
    delimiter = ";" if head.count(";") > head.count(",") else ","
    return csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
