"""Records commands in a terminal as an animated SVG, such as docs/terminal.svg.

    pip install pyte
    python docs/record_terminal.py docs/terminal.svg --speed 8 "cat photos.toml" "wastetune run --study photos.toml"

The commands run here, one after another, in a pseudo-terminal of 80 columns. They are shown `--speed` times as fast,
and no pause is longer than a second. The file needs no script: a style sheet shows one picture after another.
"""

import argparse
import itertools
import os
import pty
import select
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pyte

COLUMNS, ROWS = 80, 30
_LONGEST, _SHORTEST, _LAST = 1.0, 0.1, 5.0  # seconds that a picture of the screen is shown
_TYPED = 0.04  # seconds from key to key
_WIDTH, _HEIGHT, _SIZE = 8.4, 18, 14  # pixels of a character
_COLOURS = {
    "default": "#d8dee9", "black": "#4c566a", "red": "#e08080", "green": "#a3be8c", "brown": "#ebcb8b",
    "blue": "#81a1c1", "magenta": "#b48ead", "cyan": "#88c0d0", "white": "#eceff4",
}  # fmt: skip
_STYLE = f"""\
text {{ font: {_SIZE}px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre }}
.b {{ font-weight: bold }} .f {{ opacity: 0; animation: step-end infinite }}
"""
Screen = tuple[str, ...]  # a row each, as SVG


def record(commands: list[str], speed: float) -> Iterator[tuple[float, Screen]]:
    """The pictures of the screen, each with the seconds for which it is shown."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    pending, since = _draw(screen), 0.0
    for moment, written in _timed(commands, speed):
        stream.feed(written)
        if moment - since >= _SHORTEST and (now := _draw(screen)) != pending:
            yield moment - since, pending
            pending, since = now, moment
    yield _SHORTEST, pending
    yield _LAST, _draw(screen)


def _timed(commands: list[str], speed: float) -> Iterator[tuple[float, bytes]]:
    """What is written to the terminal, and when, without the long pauses."""
    clock = 0.0
    for command in commands:
        for text in ("\x1b[32m$\x1b[0m ", *command, "\r\n"):
            yield clock, text.encode()
            clock += _TYPED
        before = time.monotonic()
        for written in _run(command):
            now = time.monotonic()
            clock, before = clock + min((now - before) / speed, _LONGEST), now
            yield clock, written
        clock += _LONGEST
        yield clock, b"\r\n"


def _run(command: str) -> Iterator[bytes]:
    number, terminal = pty.fork()
    if not number:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
        os.execvp("sh", ["sh", "-c", command])
    while True:
        select.select([terminal], [], [])
        try:
            written = os.read(terminal, 1 << 16)
        except OSError:  # Linux says so at the end
            written = b""
        if not written:
            break
        yield written
    os.close(terminal)
    os.waitpid(number, 0)


def _draw(screen: pyte.Screen) -> Screen:
    return tuple(_draw_row([screen.buffer[row][column] for column in range(COLUMNS)]) for row in range(ROWS))


def _draw_row(cells: list[pyte.screens.Char]) -> str:
    spans = []
    for (colour, bold), run in itertools.groupby(enumerate(cells), lambda each: (each[1].fg, each[1].bold)):
        places, characters = zip(*run, strict=True)
        if text := "".join(each.data for each in characters).rstrip():
            shade = _COLOURS.get(colour, f"#{colour}")
            kind = ' class="b"' if bold else ""
            spans.append(f'<tspan x="{places[0] * _WIDTH:.1f}" fill="{shade}"{kind}>{escape(text)}</tspan>')
    return "".join(spans)


def render(pictures: list[tuple[float, Screen]]) -> str:
    """The animation. A row that several pictures share is written once."""
    total = sum(seconds for seconds, _ in pictures)
    width, height = round(COLUMNS * _WIDTH + 24), ROWS * _HEIGHT + 24
    numbers: dict[str, int] = {}
    groups, rules, start = [], [], 0.0
    for place, (seconds, rows) in enumerate(pictures):
        used = [(y, numbers.setdefault(row, len(numbers))) for y, row in enumerate(rows) if row]
        shown = "".join(f'<use href="#r{number}" y="{(y + 1) * _HEIGHT}"/>' for y, number in used)
        groups.append(f'<g class="f" style="animation-name:k{place};animation-duration:{total:.2f}s">{shown}</g>')
        first, last = (100 * moment / total for moment in (start, start + seconds))
        after = "" if last > 99.999 else f"{last:.3f}%{{opacity:0}}"
        rules.append(f"@keyframes k{place}{{0%{{opacity:{int(not place)}}}{first:.3f}%{{opacity:1}}{after}}}")
        start += seconds
    texts = "".join(f'<text id="r{number}">{row}</text>' for row, number in numbers.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -8 {width} {height}" width="{width}" height="{height}">'
        f"<style>{_STYLE}{''.join(rules)}</style><defs>{texts}</defs>"
        f'<rect x="-12" y="-8" width="{width}" height="{height}" rx="8" fill="#2b303b"/>{"".join(groups)}</svg>\n'
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("commands", nargs="+")
    parser.add_argument("--speed", type=float, default=1.0)
    asked = parser.parse_args()
    asked.file.write_text(render(list(record(asked.commands, asked.speed))), encoding="utf-8")
