"""Limits on the size and duration of requests, and the decoding of uploads to the model's pixels."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wastetune.data.image import load_pixels, open_picture, resize_picture

FIELD = "files"


def unavailable(sentence: str) -> HTTPException:
    """The response when a limit is reached: status 503."""
    return HTTPException(503, f"{sentence}; try again shortly", {"Retry-After": "1"})


class BoundedBody:
    """ASGI middleware that limits a body to `most` bytes and `seconds`, and all bodies together to `together` bytes.

    A body past a limit is refused while it arrives, with status 413, 408 or 503. An application that does not read the
    body can answer without waiting for it.
    """

    def __init__(self, app: ASGIApp, most: int, together: int, seconds: float) -> None:
        self._app, self._most, self._together, self._seconds = app, most, together, seconds
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        deadline = asyncio.get_running_loop().time() + self._seconds
        received, ended, started = 0, False, False
        too_long = HTTPException(413, f"the request has more than {self._most:,} bytes; send fewer or smaller pictures")

        async def bounded() -> Message:
            nonlocal received, ended
            if ended:
                return await receive()
            if declared.isdigit() and int(declared) > self._most:
                raise too_long
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the request did not arrive within {self._seconds:g} seconds") from None
            more = len(message.get("body", b""))
            received += more
            self._held += more
            ended = not message.get("more_body", False)
            if received > self._most:
                raise too_long
            if self._held > self._together:
                raise unavailable(f"requests of {self._together:,} bytes are in hand, as many as the service takes")
            return message

        async def tracked_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, bounded, tracked_send)
        except asyncio.CancelledError:  # the service stops, and its grace period is over
            if started:
                raise
            await JSONResponse({"detail": "the service is ending"}, 503)(scope, receive, send)
        finally:
            self._held -= received


@asynccontextmanager
async def uploaded_files(request: Request) -> AsyncIterator[list[UploadFile]]:
    """The files in the field `files` of a request's form; HTTPException where it has none, or cannot be read."""
    try:
        form = await request.form()
    except HTTPException:
        raise
    except Exception as error:  # parsers of broken forms raise anything, and a client may disconnect
        raise HTTPException(400, "the form cannot be read to its end") from error
    try:
        found = form.getlist(FIELD)
        files = [each for each in found if isinstance(each, UploadFile)]
        if not files or len(files) < len(found):
            how = f"curl -F {FIELD}=@photo.jpg {request.base_url}predict"
            raise HTTPException(422, f"send pictures as files of a form, in its field `{FIELD}`: {how}")
        yield files
    finally:
        await form.close()


def decode_upload(content: bytes, size: int, most_pixels: int, turn: AbstractContextManager[Any]) -> NDArray[np.uint8]:
    """The pixels (size, size, 3) of an uploaded file, decoded as for training. ValueError for a bad file.

    Large pictures are decoded one at a time, under the lock `turn`: one alone takes hundreds of megabytes.
    """
    picture = open_picture(content, most_pixels)
    # The picture inside an AVIF may be larger than its header says.
    large = picture.width * picture.height > most_pixels / 4 or picture.format == "AVIF"
    with turn if large else nullcontext():
        return resize_picture(load_pixels(picture), size)


def upload_name(upload: UploadFile) -> str:
    """The file name that the client gave, for the answer only; no file gets it."""
    return str(upload.filename or "")[:255]
