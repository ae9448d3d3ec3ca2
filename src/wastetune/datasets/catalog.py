"""The known data sets: their addresses, their classes and how to download them."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from wastetune.datasets.download import KaggleUnavailable, download, download_from_kaggle, unpack
from wastetune.errors import UserError
from wastetune.files import write_whole


@dataclass(frozen=True)
class KnownDataset:
    """A published data set. ``url`` is None when the download needs an account."""

    name: str
    title: str
    page: str
    licence: str
    classes: tuple[str, ...]
    total: int  # pictures
    counts: Mapping[str, int] | None = None  # pictures per class, if known
    url: str | None = None  # of a zip archive, pinned to one version
    inside: str = ""  # the folder in the archive that holds the classes
    sha256: str | None = None  # of the archive; None if its host may compress it anew
    kaggle: str = ""  # the owner/name of a data set at Kaggle, which wants the user's token
    by_hand: str = ""  # what to do without a url


_TRASHNET_COMMIT = "6fa2b878c6c1b4304b91109070ce0edf9279bb31"
_TRASHNET_COUNTS = MappingProxyType(
    {"cardboard": 403, "glass": 501, "metal": 410, "paper": 594, "plastic": 482, "trash": 137}
)
_WID_COMMIT = "8ae37569b5444f7d92f4580fc72a7bf17db4f251"

KNOWN_DATASETS: tuple[KnownDataset, ...] = (
    KnownDataset(
        name="trashnet",
        title="TrashNet (Thung & Yang 2016): photos of single pieces of waste on a white board",
        page="https://github.com/garythung/trashnet",
        licence="MIT",
        classes=tuple(_TRASHNET_COUNTS),
        total=2527,
        counts=_TRASHNET_COUNTS,
        url=f"https://github.com/garythung/trashnet/raw/{_TRASHNET_COMMIT}/data/dataset-resized.zip",
        inside="dataset-resized",
    ),
    KnownDataset(
        name="wid",
        title="Waste Images Dataset (cardstdani): photos from several collections and the web",
        page="https://github.com/cardstdani/WasteClassificationNeuralNetwork",
        licence="not stated",
        classes=(
            "Aluminium",
            "Carton",
            "Glass",
            "Organic Waste",
            "Other Plastics",
            "Paper and Cardboard",
            "Plastic",
            "Textiles",
            "Wood",
        ),
        total=5078,
        url=f"https://github.com/cardstdani/WasteClassificationNeuralNetwork/archive/{_WID_COMMIT}.zip",
        inside=f"WasteClassificationNeuralNetwork-{_WID_COMMIT}/WasteImagesDataset",
    ),
    KnownDataset(
        name="wcd",
        title="Waste Classification Data (Sekar 2019): organic or recyclable, with its own test folder",
        page="https://www.kaggle.com/datasets/techsash/waste-classification-data",
        licence="CC BY-SA 4.0",
        classes=("O", "R"),
        total=25077,
        counts=MappingProxyType({"O": 13966, "R": 11111}),
        kaggle="techsash/waste-classification-data",
        inside="DATASET",
        by_hand="sign in at Kaggle, download the archive from {page} and unpack it so that "
        "{folder}/DATASET/TRAIN and {folder}/DATASET/TEST exist",
    ),
)


def find_dataset(name_or_path: str, data_folder: Path | None = None) -> Path:
    """The folder of a data set: ``<data_folder>/<name>``, or a path.

    ``data_folder`` None means ``data`` in the working directory. Raises UserError that says what to do.
    """
    folder = (data_folder or Path("data")) / name_or_path
    if folder.is_dir():
        return folder
    for known in KNOWN_DATASETS:
        if known.name == name_or_path:
            how = known.by_hand.format(page=known.page, folder=folder) or f"run `wastetune data fetch {known.name}`"
            raise UserError(
                f"The data set {known.name} is not in {folder}: {how}, "
                "or name the folder that holds it with --data or WASTETUNE_DATA."
            )
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    raise UserError(
        f"there is no folder {name_or_path}, here or in {data_folder or Path('data')}, and no known data set of that "
        f"name: they are {_known_names()}."
    )


def fetch_dataset(
    dataset: str | KnownDataset, data_folder: Path, *, progress: Callable[[int, int], None] | None = None
) -> Path:
    """The folder ``<data_folder>/<name>`` of a known data set, downloaded unless it exists: complete or absent.

    Beside it, ``<name>.source.txt`` records the address and the sha256 of the archive.
    ``progress(done, total)`` counts bytes; total is 0 when unknown.
    Raises UserError when it cannot be downloaded, or does not have the expected pictures.
    """
    known = _find_known(dataset) if isinstance(dataset, str) else dataset
    folder = data_folder / known.name
    if folder.exists():
        return folder
    if known.url is None:
        return _fetch_from_kaggle(known, folder)
    data_folder.mkdir(parents=True, exist_ok=True)
    archive = data_folder / f"{known.name}.zip"
    if not archive.exists():
        download(known.url, archive, progress=progress)
    digest = _sha256(archive)

    def write(part: Path) -> None:
        if known.sha256 not in (None, digest):
            raise UserError(f"{known.url} has sha256 {digest}, not {known.sha256} as published: not unpacked.")
        unpack(archive, part, known.inside)
        _check_counts(known, part)
        origin = f"from: {known.url}\nsha256: {digest}\n"
        record = f"{known.title}\n{known.page}\nlicence: {known.licence}\n{origin}"
        (data_folder / f"{known.name}.source.txt").write_text(record)

    try:
        write_whole(folder, write)
    finally:
        archive.unlink(missing_ok=True)  # unpacked, or to be downloaded again because something was wrong with it
    return folder


def _fetch_from_kaggle(known: KnownDataset, folder: Path) -> Path:
    """The data set's folder, downloaded by kagglehub, which finds the user's token; complete or absent."""

    def write(part: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{known.name}-") as temporary:
            download_from_kaggle(known.kaggle, Path(temporary))
            if not (Path(temporary) / known.inside).is_dir():
                raise UserError(f"The download of {known.page} has no folder {known.inside}; see what changed there.")
            part.mkdir()
            (Path(temporary) / known.inside).rename(part / known.inside)
        _check_counts(known, part)
        record = f"{known.title}\n{known.page}\nlicence: {known.licence}\nfrom: kaggle {known.kaggle}\n"
        (folder.parent / f"{known.name}.source.txt").write_text(record)

    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_whole(folder, write)
    except KaggleUnavailable as error:
        how = known.by_hand.format(page=known.page, folder=folder)
        raise UserError(
            f"The data set {known.name} cannot be fetched without an account: {how}. Or let it be fetched with your "
            f"token ({error})."
        ) from error
    return folder


def _check_counts(known: KnownDataset, folder: Path) -> None:
    files = [file for file in folder.rglob("*") if file.is_file() and file.parent != folder]
    found = Counter(file.parent.name for file in files if not any(part.startswith(".") for part in file.parts[-2:]))
    expected = known.counts or dict.fromkeys(known.classes)
    wrong = [
        f"{name} {found.get(name, 0)} instead of {expected.get(name, 0)}"
        for name in sorted({*found, *expected})
        if name not in found or expected.get(name, 0) not in (None, found[name])
    ]
    if not wrong and sum(found.values()) != known.total:
        wrong = [f"{sum(found.values())} instead of {known.total} in all"]
    if wrong:
        raise UserError(
            f"The archive from {known.url or known.page} has not the pictures it should ({', '.join(wrong)}): "
            "it was not kept, see whether a newer wastetune knows another."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find_known(name: str) -> KnownDataset:
    for known in KNOWN_DATASETS:
        if known.name == name:
            return known
    raise UserError(f"There is no known data set {name!r}: known are {_known_names()}.")


def _known_names() -> str:
    return ", ".join(known.name for known in KNOWN_DATASETS)
