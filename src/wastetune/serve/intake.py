"""What comes in, within bounds: no more bytes than allowed, and each upload decoded to the pixels the model takes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wastetune.data.picture import decode_picture, resize_picture


class BoundedBody:
    """An ASGI app that answers 413 where a request's body has too many bytes, said or sent, before it is all read."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        said = dict(scope["headers"]).get(b"content-length", b"0")
        came = 0
        too_long = HTTPException(413, f"the request has more than {self._most:,} bytes; send fewer or smaller pictures")

        async def bounded() -> Message:
            nonlocal came
            # Heard here and not before: an app that never asks for the body is not kept from answering.
            if said.isdigit() and int(said) > self._most:
                raise too_long
            message = await receive()
            came += len(message.get("body", b""))
            if came > self._most:
                raise too_long
            return message

        return await self._app(scope, bounded, send)


def decode_upload(content: bytes, size: int, most_pixels: int) -> NDArray[np.uint8]:
    """The pixels (size, size, 3) of an uploaded file, as training saw its pictures. ValueError says what is wrong."""
    return resize_picture(decode_picture(content, most_pixels), size)


def said_name(upload: Any) -> str:
    """The name that an upload was given, which is only repeated; no file is ever called so."""
    return str(upload.filename or "")[:255]
