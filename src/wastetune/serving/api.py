"""The HTTP service: pictures in, classes and probabilities out."""

import asyncio
import os
import secrets
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.security import APIKeyHeader

from wastetune.models.answers import ALWAYS, Rule, decide
from wastetune.models.loading import Model
from wastetune.serving.batching import Batcher, Full
from wastetune.serving.prometheus import CountRequests, Metrics
from wastetune.serving.schemas import Answer, Answers, ModelCard, Problem, Share, State, model_card
from wastetune.serving.uploads import FIELD, BoundedBody, decode_upload, unavailable, upload_name, uploaded_files

if TYPE_CHECKING:
    from starlette.datastructures import UploadFile

KEY_HEADER = "X-API-Key"


@dataclass(frozen=True)
class Limits:
    """The limits of the service."""

    bytes: int = 32 * 2**20  # of a request
    pixels: int = 50_000_000  # of a picture
    files: int = 32  # of a request
    places: int = 256  # pictures of all pending requests
    seconds: float = 60.0  # until a request has arrived

    @property
    def together(self) -> int:
        """Bytes of all pending requests, in memory and on disk."""
        return 8 * self.bytes


@dataclass(frozen=True)
class Service:
    """The state that all requests share."""

    model: Model
    rule: Rule
    limits: Limits
    batcher: Batcher
    metrics: Metrics
    decoders: ThreadPoolExecutor
    large: threading.Lock = field(default_factory=threading.Lock)  # held while one large picture is decoded


Responses = dict[int | str, dict[str, Any]]

PROBLEMS: Responses = {
    400: {"model": Problem, "description": "The form cannot be read."},
    408: {"model": Problem, "description": "The request took too long to arrive."},
    413: {"model": Problem, "description": "Too many bytes, or too many files."},
    422: {"model": Problem, "description": "There is no picture, or none that can be read."},
    500: {"model": Problem, "description": "The service has failed; its log says why."},
    503: {"model": Problem, "description": "As much is in hand as the service takes; try again shortly."},
}
LOCKED: Responses = {401: {"model": Problem, "description": "The API key is missing or wrong."}}

_FILES: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "string", "format": "binary"},
    "description": "One picture or many: JPEG, PNG, WebP, GIF, TIFF ...",
}
_FORM: dict[str, Any] = {"type": "object", "required": [FIELD], "properties": {FIELD: _FILES}}


def build_app(model: Model, limits: Limits = Limits(), key: str | None = None, rule: Rule = ALWAYS) -> FastAPI:
    """The service of a model, which answers by the rule; with a `key`, only requests with it in X-API-Key predict."""
    decoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="decode")
    batcher = Batcher(model.predict, limits.places, lambda pictures: service.metrics.count_batch(pictures))
    service = Service(model, rule, limits, batcher, Metrics(lambda: batcher.taken), decoders)
    header = APIKeyHeader(name=KEY_HEADER, auto_error=False)
    ready = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(batcher.work())
        ready.set()
        yield
        ready.clear()
        batcher.close()
        await task
        decoders.shutdown()

    async def check_key(given: Annotated[str | None, Depends(header)]) -> None:
        if not secrets.compare_digest((given or "").encode(), (key or "").encode()):
            raise HTTPException(401, f"send the API key in the header {KEY_HEADER}")

    # Without a key, the OpenAPI description does not mention one.
    locked, refusals = ([Depends(check_key)], LOCKED) if key else ([], {})
    app = FastAPI(
        title=f"wastetune: {model.about.study or 'a model'}",
        summary=f"Says which of {len(model.classes)} classes is on a picture: {', '.join(model.classes)}.",
        version=version("wastetune"),
        lifespan=lifespan,
    )
    app.add_middleware(BoundedBody, most=limits.bytes, together=limits.together, seconds=limits.seconds)
    app.add_middleware(CountRequests, metrics=service.metrics)

    @app.post(
        "/predict",
        response_model=Answers,
        dependencies=locked,
        responses=refusals | PROBLEMS,
        summary="Say what is on pictures",
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
    )
    async def predict(request: Request) -> Any:
        """An answer for each file, in their order.

        A file that cannot be read has a `problem` in its answer and stops no other; where there is no other, the
        status is 422.
        """
        # The form is no parameter: FastAPI would read all of it before it checks the key.
        if batcher.full:
            raise _full(service)
        async with uploaded_files(request) as files:
            return await _predict(service, files)

    @app.get("/model", dependencies=locked, responses=refusals, summary="Say which model this is")
    async def card() -> ModelCard:
        return model_card(model.about, rule)

    @app.get("/health", summary="Alive")
    async def health() -> State:
        return State(status="alive")

    @app.get("/ready", responses={503: {"model": Problem, "description": "Starting, or ending."}}, summary="Ready")
    async def readiness() -> State:
        if not ready.is_set():
            raise HTTPException(503, "the service is starting or ending")
        return State(status="ready")

    @app.get("/metrics", response_class=Response, summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/docs")

    @app.exception_handler(Exception)
    async def report_failure(request: Request, error: Exception) -> Response:
        """The response to an error of the service; its traceback is in the log."""
        return JSONResponse({"detail": "the service has failed over this request; its log says why"}, 500)

    return app


async def _predict(service: Service, files: "list[UploadFile]") -> Any:
    most = service.limits.files
    if len(files) > most:
        raise HTTPException(
            413, f"{len(files)} files came, and {most} are taken at once; send them in several requests"
        )
    try:
        with service.batcher.places(len(files)):
            answers = await asyncio.gather(*(_answer(service, file) for file in files))
    except Full:
        raise _full(service) from None
    if all(answer.problem for answer in answers):
        return JSONResponse({"detail": "; ".join(f"{each.filename}: {each.problem}" for each in answers[:3])}, 422)
    return Answers(predictions=list(answers))


def _full(service: Service) -> Exception:
    return unavailable(f"{service.limits.places} pictures are in hand, as many as the service takes")


async def _answer(service: Service, file: "UploadFile") -> Answer:
    name, model = upload_name(file), service.model
    decode = asyncio.get_running_loop().run_in_executor
    try:
        # The decoder reads the bytes, so that they stay on disk until it is free.
        pixels = await decode(service.decoders, _decode, file, service)
    except ValueError as error:
        service.metrics.count_picture("refused")
        return Answer(filename=name, problem=str(error))
    predicted, likeness = await service.batcher.predict(pixels)
    service.metrics.count_picture("predicted")
    said = decide(model.classes, predicted, service.rule, likeness)
    return Answer(
        filename=name,
        name=said.name,
        probability=said.probability,
        unsure=said.unsure,
        unlike=said.unlike,
        top=[Share(name=each, probability=share) for each, share in said.top],
        probabilities=dict(zip(model.classes, map(float, predicted), strict=True)),
    )


def _decode(file: "UploadFile", service: Service) -> Any:
    return decode_upload(file.file.read(), service.model.size, service.limits.pixels, service.large)
