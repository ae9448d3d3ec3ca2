"""The service as a process."""

import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from PIL import Image

from wastetune.errors import UserError
from wastetune.models.loading import Model
from wastetune.serving.api import Limits, build_app

# A picture in one piece, up to this: malloc gives large pieces back to the system, and keeps Pillow's usual 16 MiB.
_BLOCK = 512 * 2**20
_GRACE = 10  # seconds for what is in hand when the service is told to end


def serve_model(
    model: Model,
    *,
    host: str,
    port: int,
    key: str | None,
    limits: Limits,
    echo: Callable[[str], None],
) -> None:
    """Serves a model until SIGINT or SIGTERM; `say` gets its address, where it answers from then on.

    UserError where the place is taken.
    """
    with open_listener(host, port) as listener:
        Image.core.set_block_size(_BLOCK)  # type: ignore[attr-defined]
        answer_at(listener, build_app(model, limits, key), websockets=False, grace=_GRACE, echo=echo)


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens there, at a free port for 0; UserError where none can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen at {host} port {port}: {reason}; name others with --host and --port") from None
    # asyncio would do it for sockets of its own; without it an answer waits 40 ms for the client to confirm its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def answer_at(listener: socket.socket, app: Any, *, websockets: bool, grace: int, echo: Callable[[str], None]) -> None:
    """Lets an ASGI application answer there until SIGINT or SIGTERM; `say` gets its address.

    What is in hand then has `grace` seconds to end.
    """
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        app,
        ws="auto" if websockets else "none",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=grace,
        server_header=False,
    )
    echo(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    uvicorn.Server(config).run(sockets=[listener])
