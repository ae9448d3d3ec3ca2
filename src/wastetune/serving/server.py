"""Runs the service and the app as a process."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from PIL import Image
from uvicorn.protocols.http.h11_impl import H11Protocol

from wastetune.errors import UserError
from wastetune.models.answers import Rule
from wastetune.models.loading import Model
from wastetune.network import http_address, listen
from wastetune.serving.api import Limits, build_app

# Bytes up to which Pillow stores a picture in one block. malloc returns large blocks to the system, but not those of
# 16 MiB that Pillow uses by default.
_BLOCK = 512 * 2**20
_GRACE = 10  # seconds for pending requests when the service stops
_PATIENCE = 10.0  # seconds for a client to send the head of a request
_CONNECTIONS = 1000  # open at once: below the 1024 files that a process may usually open


def serve_model(
    model: Model,
    rule: Rule,
    *,
    host: str,
    port: int,
    key: str | None,
    limits: Limits,
    echo: Callable[[str], None],
) -> None:
    """Serves a model, which answers by the rule, until SIGINT or SIGTERM; `echo` gets its address once it listens.

    UserError where it cannot listen there.
    """
    with open_listener(host, port) as listener:
        Image.core.set_block_size(_BLOCK)  # type: ignore[attr-defined]
        serve_at(listener, build_app(model, limits, key, rule), websockets=False, grace=_GRACE, echo=echo)


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens at this host and port, at a free one for 0. UserError where it cannot."""
    try:
        listener = listen(host, port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen at {host} port {port}: {reason}; name others with --host and --port") from None
    # As asyncio does for its own sockets. Without it a response waits 40 ms for the client to acknowledge its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class BoundedConnection(H11Protocol):
    """A connection that is closed where no request has begun for a while; uvicorn waits for the first one for ever.

    A head that arrives byte by byte does not count as begun. Where too many connections are open, one that waits for a
    request makes room for the next one.
    """

    patience, most = _PATIENCE, _CONNECTIONS
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accepts a connection, or closes it where no other one can be closed."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            waiting = (each for each in self.connections if isinstance(each, BoundedConnection) and each.waits)
            next((each for each in waiting if each is not self), self).transport.abort()
        self._look = self.loop.call_later(self.patience, self._close_unless_begun, self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        if self._look:
            self._look.cancel()
        super().connection_lost(exc)

    @property
    def waits(self) -> bool:
        """Whether no request is in progress."""
        return not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete)

    def _close_unless_begun(self, before: Any) -> None:
        if self not in self.connections:  # a web socket now
            return
        if self.waits and self.cycle is before:
            self.transport.abort()
        else:
            self._look = self.loop.call_later(self.patience, self._close_unless_begun, self.cycle)


def serve_at(listener: socket.socket, app: Any, *, websockets: bool, grace: int, echo: Callable[[str], None]) -> None:
    """Runs an ASGI application at this socket until SIGINT or SIGTERM; `echo` gets its address.

    Pending requests then have `grace` seconds. Connections are bounded, see `BoundedConnection`.
    """
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        app,
        http=BoundedConnection,
        ws="auto" if websockets else "none",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=grace,
        server_header=False,
    )
    echo(http_address(host, port))
    uvicorn.Server(config).run(sockets=[listener])
