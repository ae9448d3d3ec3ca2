"""Writes docs/commands.md: the help of every command, as the command line itself gives it."""

from collections.abc import Iterator
from pathlib import Path

import click

from wastetune.cli.main import main

PAGE = Path(__file__).with_name("commands.md")


def render_commands() -> str:
    """The page: a section per command, in the order of the help."""
    sections = [f"## {name}\n\n```\n{text}\n```\n" for name, text in _helps(main, "wastetune", None)]
    return "# Commands\n\nWritten by `make docs`; the tests compare it with the command line.\n\n" + "\n".join(sections)


def _helps(command: click.Command, name: str, parent: click.Context | None) -> Iterator[tuple[str, str]]:
    context = click.Context(
        command,
        info_name=name.split()[-1],
        parent=parent,
        terminal_width=100,
        help_option_names=["-h", "--help"],  # as in the command line; a context made by hand has its own default
    )
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            if (found := command.get_command(context, child)) is not None:
                yield from _helps(found, f"{name} {child}", context)


if __name__ == "__main__":
    PAGE.write_text(render_commands(), encoding="utf-8")
