"""The service as a process: a socket, uvicorn, and a clean end."""

import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from wastetune.errors import UserError
from wastetune.models import open_model
from wastetune.serve.api import Limits, build_app

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
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen at {host} port {port}: {reason}; name others with --host and --port") from None
    with listener:
        shown = f"[{host}]" if ":" in host else host
        app = build_app(model, limits, key)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE, server_header=False
        )
        say(f"http://{shown}:{listener.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listener])
