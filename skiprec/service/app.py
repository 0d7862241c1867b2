"""The application: its routes, and the way of a request through them."""

import hmac
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive

from skiprec.service.entrance import Entrance
from skiprec.service.errors import FAILED, RefusedError, add_error_answers, read_body
from skiprec.service.limits import Limits
from skiprec.service.schema import (
    MAX_FOUND,
    ErrorAnswer,
    Item,
    ItemsAnswer,
    ItemsRequest,
    ModelAnswer,
    RecommendAnswer,
    RecommendRequest,
    ReloadRequest,
)
from skiprec.service.service import Service

log = logging.getLogger(__name__)

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        408: "The body came too slowly.",
        413: "The body is too large.",
        422: "The request is not valid.",
        429: "Too much waits; try again after `Retry-After` seconds.",
        500: "The service has failed; its log says why.",
        503: "The service is stopping; try again after `Retry-After` seconds.",
        504: "The request has waited longer than its deadline.",
    }.items()
}


RECOMMEND = "/v1/recommend"
PAGE = Path(__file__).parent / "page"
POLICY = "default-src 'self'; img-src 'self' data:"
NOT_ALLOWED: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorAnswer, "description": "The token is missing or wrong."}
}


async def answer(service: Service, body: bytes, arrived_s: float, receive: Receive) -> Response:
    """The answer to the body of a request for recommendations, or its error."""
    status = 500
    try:
        asked = read_body(RecommendRequest, body)
        content = await service.recommend(asked, arrived_s, receive)
        status = 200
        return Response(content, media_type="application/json")
    except RefusedError as refused:
        status = refused.status
        return refused.response()
    except Exception:  # whatever it is, the client gets an answer of the kind that it knows
        log.exception("a request has failed")
        return RefusedError(500, FAILED).response()
    finally:
        service.count(status, time.monotonic() - arrived_s)


def create_app(service: Service, admin_token: str | None = None) -> FastAPI:
    """The application of a service.

    Args:
        admin_token: who knows it may swap the model; None: there is no such route.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    # FastAPI's own page at /docs loads its scripts from another host.
    app = FastAPIOffline(
        title="SkipRec",
        version="1",
        description="Recommendations of the next item from histories.",
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    add_error_answers(app)
    limits = service.limits
    app.add_middleware(
        Entrance,
        max_bytes=math.floor(limits.max_body_mb * 1e6),
        max_held=math.floor(limits.max_waiting_mb * 1e6),
        timeout_s=limits.body_timeout_s,
        handlers={RECOMMEND: partial(answer, service)},
        on_refused=lambda status: service.metrics.requests.labels(status).inc(),
    )

    @app.post(
        RECOMMEND,
        response_model=RecommendAnswer,
        responses=ERRORS,
        openapi_extra=_body_of(_schema_with(limits)),
    )
    async def recommend(request: Request) -> Response:
        """The best items for each history."""
        # The entrance answers before; here is what OpenAPI says of it.
        return await answer(service, await request.body(), time.monotonic(), request.receive)

    app.mount("/page", StaticFiles(directory=PAGE))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        """The page for people."""
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": POLICY})

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process runs."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Whether a model answers: it has passed its self-test before the service listened."""
        return {"status": "ready", "model": service.model.now.name}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """The numbers of the service, for Prometheus."""
        service.metrics.waiting.set(service.dispatcher.rows_waiting)
        text = service.metrics.text().decode()
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    @app.get("/v1/items", response_model=ItemsAnswer, responses={422: ERRORS[422]})
    def items(
        q: Annotated[str, Query(description="Words of the id or name.", max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=MAX_FOUND)] = 20,
    ) -> ItemsAnswer:
        """A search for items, for people."""
        found = service.model.now.catalogue.search(q, limit)
        return ItemsAnswer(items=[Item(**vars(one)) for one in found])

    @app.post(
        "/v1/items/lookup",
        response_model=ItemsAnswer,
        responses=ERRORS,
        openapi_extra=_body_of(ItemsRequest.model_json_schema()),
    )
    async def items_by_id(request: Request) -> ItemsAnswer:
        """The items of these ids that the model knows; a history is never in an address."""
        asked = read_body(ItemsRequest, await request.body())
        found = service.model.now.catalogue.find([str(one) for one in asked.ids])
        return ItemsAnswer(items=[Item(**vars(one)) for one in found])

    @app.get("/v1/model", response_model=ModelAnswer)
    async def describe() -> ModelAnswer:
        """The model that answers now."""
        loaded = service.model.now
        spec = loaded.recommender.spec
        return ModelAnswer(
            model=loaded.name,
            backbone=spec.backbone,
            policy=spec.policy,
            blocks=spec.shape["blocks"],
            window=spec.shape["window"],
            items=spec.shape["items"],
            executor=loaded.recommender.executor,
            curve=[vars(point) for point in spec.curve],
            made_by=spec.made_by,
        )

    if admin_token is not None:

        def knows_token(authorization: Annotated[str, Header()] = "") -> None:
            expected = f"Bearer {admin_token}".encode()
            if not hmac.compare_digest(authorization.encode(), expected):
                raise RefusedError(401, "expected the header Authorization: Bearer TOKEN")

        @app.post(
            "/v1/admin/reload",
            responses=ERRORS | NOT_ALLOWED,
            openapi_extra=_body_of(ReloadRequest.model_json_schema()),
        )
        async def reload(
            request: Request, _: Annotated[None, Depends(knows_token)]
        ) -> JSONResponse:
            """Loads a model beside the one that answers, then swaps them."""
            asked = read_body(ReloadRequest, await request.body())
            try:
                loaded = await run_in_threadpool(service.model.replace_by, Path(asked.folder))
            except ValueError as error:
                raise RefusedError(422, str(error)) from None
            return JSONResponse({"model": loaded.name})

    return app


def _body_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Tells OpenAPI of a body that pydantic reads by itself.

    So it is JSON whatever its type is called, and every error in it names a field.
    """
    return {"requestBody": {"content": {"application/json": {"schema": schema}}, "required": True}}


def _schema_with(limits: Limits) -> dict[str, Any]:
    """What a request may say, with the limits of this service."""
    schema = RecommendRequest.model_json_schema()
    schema["properties"]["k"]["maximum"] = limits.max_k
    schema["properties"]["histories"]["maxItems"] = limits.max_histories
    return schema
