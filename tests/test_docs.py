"""What is written about wastetune is true of it."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_command_reference_is_that_of_the_command_line():
    page = runpy.run_path(str(DOCS / "write_commands.py"))["render_commands"]()
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == page, "run `make docs`"


def test_every_command_has_an_example():
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    sections = page.split("\n## ")[1:]
    assert len(sections) >= 8
    assert [section.splitlines()[0] for section in sections if "Example:" not in section] == []
