"""The service as a process."""

from collections.abc import Callable
from pathlib import Path

from wastetune.models import open_model
from wastetune.serve.api import Limits, build_app
from wastetune.serve.listening import answer_at, open_listener

_GRACE = 10  # seconds for what is in hand when the service is told to end


def serve_model(
    file: Path,
    *,
    host: str,
    port: int,
    key: str | None,
    threads: int | None,
    limits: Limits,
    say: Callable[[str], None],
) -> None:
    """Serves the model in an .onnx file until SIGINT or SIGTERM; `say` gets its address when it answers.

    UserError where the model cannot be opened, or the place is taken.
    """
    model = open_model(file, threads=threads)
    answer_at(open_listener(host, port), build_app(model, limits, key), grace=_GRACE, say=say)
