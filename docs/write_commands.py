"""Writes docs/commands.md: the help of every command, and the environment variables, from the code itself."""

from collections.abc import Iterator
from pathlib import Path

import click

from wastetune.cli.main import main
from wastetune.settings import SETTINGS

PAGE = Path(__file__).with_name("commands.md")


def render_commands() -> str:
    """The page: a section per command, in the order of the help, and a table of the environment variables."""
    sections = [f"## {name}\n\n```\n{text}\n```\n" for name, text in _helps(main, "wastetune", None)]
    rows = [
        f"| `{each.variable}` | {f'`{each.default}`' if each.default else '-'} | {each.help} |\n" for each in SETTINGS
    ]
    table = "".join(["| variable | default | what it sets |\n", "|---|---|---|\n", *rows])
    parts = [
        "# Commands\n\nWritten by `make docs`; the tests compare it with the code.\n",
        *sections,
        f"## Environment variables\n\nAn option on the command line wins over its variable.\n\n{table}",
    ]
    return "\n".join(parts)


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
