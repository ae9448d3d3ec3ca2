"""The service as a process: a socket, uvicorn, and a clean end."""

import socket
from collections.abc import Callable

import uvicorn
from PIL import Image

from wastetune.errors import UserError
from wastetune.models import Model
from wastetune.serve.api import Limits, build_app

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
    say: Callable[[str], None],
) -> None:
    """Serves a model until SIGINT or SIGTERM; `say` gets its address, where it answers from then on.

    UserError where the place is taken.
    """
    with open_listener(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        Image.core.set_block_size(_BLOCK)  # type: ignore[attr-defined]
        app = build_app(model, limits, key)
        config = uvicorn.Config(
            app,
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_GRACE,
            server_header=False,
        )
        say(f"http://{shown}:{listener.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listener])


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens there; UserError where none can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen at {host} port {port}: {reason}; name others with --host and --port") from None
    # asyncio would do it for sockets of its own; without it an answer waits 40 ms for the client to confirm its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
