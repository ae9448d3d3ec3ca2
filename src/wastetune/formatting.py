"""Text for people: numbers, durations, tables, HTML templates."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def shortened(name: str, most: int) -> str:
    """The name, cut to at most so many characters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of aligned columns; the first `left` columns are left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """The lines of a Markdown table; the first `left` columns are left-aligned, the others right-aligned."""
    ruler = ["---" if column < left else "---:" for column in range(len(header))]
    table = [header, ruler, *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]


def render_count(number: int, noun: str) -> str:
    """A number with its noun: 1 picture, 2 pictures."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def render_value(value: object) -> str:
    """A parameter's value in four digits; a dash for None."""
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def render_duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def render_rough_duration(seconds: float) -> str:
    """A duration in one unit, for what is an estimate: `43 s`, `17 min`, `1.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def render_bytes(count: float) -> str:
    """A number of bytes in the largest unit that makes it at least 1: 12 kB, 3.4 GB."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


@cache
def load_templates(package: str, **filters: Callable[..., str]) -> "Environment":
    """The Jinja environment of a package's templates. It escapes all values, and an unknown name is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader(package, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters.update(filters)
    return templates
