"""The `wastetune` command; each group of commands is imported when one of its commands is asked for."""

from importlib import import_module

import click

from wastetune.console import silence_tensorflow
from wastetune.errors import UserError, render_os_error

# Command -> the module of this package that defines it, under the same name.
COMMANDS = {
    "run": "run",
    "worker": "run",
    "status": "study",
    "compare": "study",
    "sync": "study",
    "studies": "study",
    "predict": "model",
    "export": "model",
    "serve": "serve",
    "app": "serve",
    "ui": "serve",
    "proxy": "serve",
    "data": "data",
    "evaluate": "checks",
    "reproduce": "checks",
    "doctor": "checks",
}


class _LazyGroup(click.Group):
    """Loads commands by name; prints an error that a user can mend as one sentence, with exit status 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"wastetune.cli.{COMMANDS[cmd_name]}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except UserError as error:
            reason = str(error)
        except BrokenPipeError:  # `| head` has seen enough; click knows what to do
            raise
        except OSError as error:  # a folder that may not be written to, for example
            reason = render_os_error(error)
        except ModuleNotFoundError as error:  # where only what `serve` takes is installed
            reason = f"this command needs {error.name}, which is not installed; pip install wastetune"
        click.echo(f"error: {reason}", err=True)
        return ctx.exit(2)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="wastetune")
def main() -> None:
    """Find the best transfer-learning classifier for a folder of pictures, and an honest number for it.

    \b
    Example:
      wastetune data sample demo/pictures
      wastetune run --study demo
    """
    silence_tensorflow()
