"""Finding and fetching data sets, against a real server on this machine."""

import http.server
import io
import stat
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from wastetune.datasets import catalog
from wastetune.datasets.catalog import KNOWN_DATASETS, KnownDataset, fetch_dataset, find_dataset
from wastetune.datasets.download import download
from wastetune.errors import UserError


@dataclass
class Host:
    """A web server with one file, as well behaved as a test wants it."""

    content: bytes = b""
    resumes: bool = True
    stops_after: int | None = None  # bytes of an answer, then the connection breaks
    asked: list[str | None] = field(default_factory=list)  # the Range of each request
    url: str = ""


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            host.asked.append(wanted)
            if self.path != "/set.zip":
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and host.resumes else 0
            if start >= len(host.content) > 0:
                self.send_error(416)
                return
            body = host.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(host.content) - 1}/{len(host.content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if host.stops_after is None else body[: host.stops_after])

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    host.url = f"http://127.0.0.1:{server.server_port}/set.zip"
    yield host
    server.shutdown()
    thread.join()
    server.server_close()


def zipped(files: dict[str, bytes], link: str | None = None) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        if link:
            entry = zipfile.ZipInfo(link)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, "/etc/passwd")
    return content.getvalue()


GOOD = {
    "top/README.md": b"about",
    "top/pictures/a/1.jpg": b"1" * 3000,
    "top/pictures/a/2.jpg": b"2" * 3000,
    "top/pictures/with space/3.jpg": b"3" * 3000,
    "top/pictures/a/.DS_Store": b"x",
    "__MACOSX/top/pictures/a/._1.jpg": b"x",
}


@pytest.fixture
def source(host: Host) -> KnownDataset:
    host.content = zipped(GOOD)
    return KnownDataset(
        name="small",
        title="A small one",
        page="https://example.org",
        licence="MIT",
        classes=("a", "with space"),
        total=3,
        counts={"a": 2, "with space": 1},
        url=host.url,
        inside="top/pictures",
    )


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_fetched_data_set_lies_complete_beside_its_record(source: KnownDataset, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = fetch_dataset(source, tmp_path / "data", progress=lambda done, total: seen.append((done, total)))
    assert folder == tmp_path / "data" / "small"
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == ["a/1.jpg", "a/2.jpg", "with space/3.jpg"]
    assert left_in(tmp_path / "data") == ["small", "small.source.txt"]
    record = (tmp_path / "data" / "small.source.txt").read_text()
    assert "licence: MIT" in record
    assert "sha256: " in record
    assert seen[-1][0] == seen[-1][1] > 9000


def test_a_data_set_that_is_there_is_not_fetched_again(source: KnownDataset, host: Host, tmp_path: Path) -> None:
    fetch_dataset(source, tmp_path)
    fetch_dataset(source, tmp_path)
    assert len(host.asked) == 1


def test_a_broken_download_goes_on_where_it_stopped(source: KnownDataset, host: Host, tmp_path: Path) -> None:
    host.stops_after = 1000
    with pytest.raises(UserError, match=r"after 1,000 of .* bytes: run this again"):
        fetch_dataset(source, tmp_path)
    assert left_in(tmp_path) == ["small.zip.part"]
    host.stops_after = None
    fetch_dataset(source, tmp_path)
    assert host.asked == [None, "bytes=1000-"]
    assert left_in(tmp_path) == ["small", "small.source.txt"]


def test_a_server_that_does_not_resume_sends_everything_again(host: Host, source: KnownDataset, tmp_path: Path) -> None:
    host.resumes = False
    (tmp_path / "small.zip.part").write_bytes(b"old" * 100)
    fetch_dataset(source, tmp_path)
    assert (tmp_path / "small" / "a" / "1.jpg").read_bytes() == b"1" * 3000


def test_a_part_that_is_too_long_is_removed(host: Host, source: KnownDataset, tmp_path: Path) -> None:
    (tmp_path / "small.zip.part").write_bytes(b"x" * 100_000)
    with pytest.raises(UserError, match="did not fit, so it was removed"):
        fetch_dataset(source, tmp_path)
    assert fetch_dataset(source, tmp_path).is_dir()


def test_no_network_is_one_sentence(tmp_path: Path, host: Host, source: KnownDataset) -> None:
    nobody = replace(source, url="http://127.0.0.1:9/set.zip")
    with pytest.raises(UserError, match=r"Cannot download .*refused.*: check the network"):
        fetch_dataset(nobody, tmp_path)
    with pytest.raises(UserError, match="answers 404"):
        download(host.url + "x", tmp_path / "x.zip")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("name", ["../outside.jpg", "top/pictures/a/../../../../outside.jpg", "/outside.jpg", "C:\\x"])
def test_an_archive_that_would_write_elsewhere_is_not_unpacked(
    name: str, host: Host, source: KnownDataset, tmp_path: Path
) -> None:
    host.content = zipped({**GOOD, name: b"bad"})
    with pytest.raises(UserError, match=r"unsafe entry .* nothing was unpacked"):
        fetch_dataset(source, tmp_path / "data")
    assert left_in(tmp_path / "data") == []
    assert left_in(tmp_path) == ["data"]


def test_an_archive_with_a_link_is_not_unpacked(host: Host, source: KnownDataset, tmp_path: Path) -> None:
    host.content = zipped(GOOD, link="top/pictures/a/link.jpg")
    with pytest.raises(UserError, match=r"unsafe entry 'top/pictures/a/link\.jpg'"):
        fetch_dataset(source, tmp_path)


def test_an_archive_that_is_too_large_is_not_unpacked(
    source: KnownDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wastetune.datasets.download.MAX_UNPACKED", 5000)
    with pytest.raises(UserError, match="would unpack to more than"):
        fetch_dataset(source, tmp_path)
    assert left_in(tmp_path) == []


def test_a_damaged_archive_is_not_kept(host: Host, source: KnownDataset, tmp_path: Path) -> None:
    host.content = host.content.replace(b"2" * 3000, b"2" * 2999 + b"!")
    with pytest.raises(UserError, match="not a sound zip archive"):
        fetch_dataset(source, tmp_path)
    host.content = b"<html>sorry</html>"
    with pytest.raises(UserError, match="not a sound zip archive"):
        fetch_dataset(source, tmp_path)
    assert left_in(tmp_path) == []


def test_wrong_counts_are_refused_by_class_and_in_all(source: KnownDataset, tmp_path: Path) -> None:
    wrong = replace(source, counts={"a": 5, "b": 1}, total=6)
    expected = "a 2 instead of 5, b 0 instead of 1, with space 1 instead of 0"
    with pytest.raises(UserError, match=expected):
        fetch_dataset(wrong, tmp_path)
    with pytest.raises(UserError, match="3 instead of 4 in all"):
        fetch_dataset(replace(source, counts=None, total=4), tmp_path)
    assert left_in(tmp_path) == []
    assert fetch_dataset(replace(source, counts=None), tmp_path).is_dir()


def test_another_checksum_is_refused(source: KnownDataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has sha256 .*, not 00 as published"):
        fetch_dataset(replace(source, sha256="00"), tmp_path)
    assert left_in(tmp_path) == []


def test_kagglehub_without_a_network_says_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kagglehub", reason="needs pip install '.[dev]'")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"sign in at Kaggle.*kagglehub says: .*is KAGGLE_API_TOKEN set"):
        fetch_dataset("wcd", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("many", [2, 1], ids=["whole", "another"])
def test_what_kaggle_gives_is_kept_if_it_has_the_pictures_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """Kaggle itself wants an account, so its answer is written here; the archive holds everything twice."""

    def give(handle: str, folder: Path) -> None:
        assert handle == "somebody/waste"
        for name in ("DATASET/TRAIN/O", "DATASET/TEST/O", "DATASET/TRAIN/R", "dataset/DATASET/TRAIN/O"):
            (folder / name).mkdir(parents=True)
            for number in range(many):
                (folder / name / f"{number}.jpg").write_bytes(b"picture")

    monkeypatch.setattr(catalog, "download_from_kaggle", give)
    wcd = next(known for known in KNOWN_DATASETS if known.name == "wcd")
    known = replace(wcd, kaggle="somebody/waste", total=6, counts={"O": 4, "R": 2})
    if many == 2:
        folder = fetch_dataset(known, tmp_path / "data")
        assert {path.name for path in folder.iterdir()} == {"DATASET"}
        assert len(list(folder.rglob("*.jpg"))) == 6
        assert {path.name for path in (tmp_path / "data").iterdir()} == {"wcd", "wcd.source.txt"}
    else:
        with pytest.raises(UserError, match=r"has not the pictures it should \(O 2 instead of 4, R 1 instead of 2\)"):
            fetch_dataset(known, tmp_path / "data")
        assert list((tmp_path / "data").iterdir()) == []


def test_a_data_set_behind_an_account_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # as if it was not installed
    with pytest.raises(
        UserError, match=r"kaggle\.com/datasets/techsash.*wcd/DATASET/TRAIN.*pip install 'wastetune\[kagg"
    ):
        fetch_dataset("wcd", tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="known are trashnet, wid, wcd"):
        fetch_dataset("tresh", tmp_path)


def test_a_data_set_is_found_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "trashnet").mkdir(parents=True)
    (tmp_path / "sets" / "mine").mkdir(parents=True)
    assert find_dataset("trashnet") == Path("data/trashnet")
    assert find_dataset("mine", Path("sets")) == Path("sets/mine")
    assert find_dataset("sets/mine") == Path("sets/mine")
    assert find_dataset(str(tmp_path / "sets" / "mine")) == tmp_path / "sets" / "mine"


def test_a_data_set_that_is_not_there_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"`wastetune data fetch trashnet`.* --data or WASTETUNE_DATA"):
        find_dataset("trashnet", tmp_path)
    with pytest.raises(UserError, match=r"wcd is not in data/wcd: sign in at Kaggle"):
        find_dataset("wcd")
    with pytest.raises(UserError, match=r"no folder tresh, here or in data, and .* they are trashnet, wid, wcd"):
        find_dataset("tresh")


def test_the_table_agrees_with_itself() -> None:
    for source in KNOWN_DATASETS:
        assert list(source.classes) == sorted(source.classes)
        assert (source.url is None) == bool(source.by_hand)
        if source.counts is not None:
            assert tuple(source.counts) == source.classes
            assert sum(source.counts.values()) == source.total
