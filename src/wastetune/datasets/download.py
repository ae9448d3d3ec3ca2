"""Archives from the network: downloads that resume, safe unpacking, and what Kaggle gives for a user's token."""

import http.client
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from wastetune.errors import UserError, first_line, install_command, is_disk_error

MAX_UNPACKED = 8 * 2**30
CHUNK = 2**18


def download(url: str, path: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Downloads the file at an http(s) address to ``path``, which is complete or absent.

    When the connection breaks, ``<path>.part`` keeps the bytes so far and the next call resumes from there (which
    `pooch`, for one, does not). ``progress(done, total)`` counts bytes; total is 0 when unknown. Raises UserError.
    """
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:
                have = 0  # this server sends the whole file again
            elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                part.unlink()
                raise UserError(f"{url} sent another part of the file than asked for: run this again.")
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else 0
            with part.open("ab" if have else "wb") as file:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    have += len(chunk)
                    if progress:
                        progress(have, total)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the part is not a beginning of this file
            part.unlink()
            raise UserError(f"The partial download of {url} did not fit, so it was removed: run this again.") from error
        raise UserError(f"{url} answers {error.code} {error.reason}: it may have moved.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"Cannot download {url} ({reason}): check the network and run this again, it goes on where it stopped."
        ) from error
    if total and have != total:
        raise UserError(
            f"The download of {url} stopped after {have:,} of {total:,} bytes: run this again, it goes on from there."
        )
    part.replace(path)


class KaggleUnavailable(Exception):
    """Kaggle gives nothing; the message, a phrase, says why and what to do."""


def download_from_kaggle(handle: str, folder: Path) -> None:
    """Downloads the files of a data set at Kaggle, "owner/name", to a folder. Raises KaggleUnavailable.

    kagglehub finds the user's token itself: in the environment, or in the folder where Kaggle's own tools keep it.
    """
    try:
        import kagglehub
    except ImportError:
        raise KaggleUnavailable(install_command("kaggle")) from None
    try:
        kagglehub.dataset_download(handle, output_dir=str(folder))
    except Exception as error:  # whatever Kaggle, the network or a wrong token leads to
        raise KaggleUnavailable(
            f"kagglehub says: {first_line(error)}; is KAGGLE_API_TOKEN set, or your token in ~/.kaggle?"
        ) from error


def unpack(archive: Path, folder: Path, inside: str) -> None:
    """Unpacks the files below ``inside`` in a zip archive to ``folder``, which must not exist.

    Unpacks nothing and raises UserError when the archive is damaged or too large, has no such files, or has an entry
    that is a link or would be written outside the folder.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            entries = [entry for entry in content.infolist() if not entry.is_dir()]
            _check_safe(archive, entries)
            chosen = [(entry, name) for entry in entries if (name := _below(entry.filename, inside))]
            if not chosen:
                raise UserError(f"{archive} has nothing in {inside}: it is not the archive that was expected.")
            for entry, name in chosen:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with content.open(entry) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, CHUNK)
    except UserError:
        raise
    except Exception as error:  # zipfile raises any exception for a damaged archive
        if is_disk_error(error):
            raise
        raise UserError(
            f"{archive} is not a sound zip archive ({first_line(error)}): remove it and fetch again."
        ) from error


def _check_safe(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    # The declared sizes are upper bounds: zipfile stops reading an entry there.
    if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
        raise UserError(f"{archive} would unpack to more than {MAX_UNPACKED // 2**30} GiB, so it was not unpacked.")
    for entry in entries:
        name = PurePosixPath(entry.filename)
        outside = name.is_absolute() or ".." in name.parts or "\\" in entry.filename or ":" in "".join(name.parts[:1])
        if outside or stat.S_ISLNK(entry.external_attr >> 16):
            raise UserError(f"{archive} has an unsafe entry {entry.filename!r}, so nothing was unpacked.")


def _below(name: str, inside: str) -> str | None:
    parts, prefix = PurePosixPath(name).parts, PurePosixPath(inside).parts
    rest = parts[len(prefix) :]
    if parts[: len(prefix)] != prefix or any(part.startswith(".") for part in rest):
        return None
    return "/".join(rest) or None
