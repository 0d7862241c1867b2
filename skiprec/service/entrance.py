"""The outermost part of the application: reads bodies within limits, and has a short way.

The route that all the load goes to is called from here: FastAPI's layers between the server and a
route take as long as everything else of a small request.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from skiprec.service.errors import RefusedError, refuse_field

# (body, when its last byte came by `time.monotonic`, receive) -> the answer
Handler = Callable[[bytes, float, Receive], Awaitable[Response]]


class Entrance:
    """ASGI middleware that reads bodies.

    It answers 413 for one that is too large, 408 for one too slow, and 429 where it holds too many.

    Args:
        max_bytes: of a body.
        max_held: bytes of the bodies that are held at once, from their first byte to their answer.
        handlers: of POST requests by path; other requests go on to the application.
        on_refused: told of the status of a request to one of these paths that gets no further.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        max_held: int,
        timeout_s: float,
        handlers: dict[str, Handler],
        on_refused: Callable[[int], None],
    ):
        self.app, self.max_bytes, self.timeout_s = app, max_bytes, timeout_s
        self.max_held, self.held = max_held, 0
        self.handlers, self.on_refused = handlers, on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on with its whole body, or answers it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        parts: list[bytes] = []
        try:
            await self._answer(parts, scope, receive, send)
        finally:
            self.held -= sum(map(len, parts))

    async def _answer(self, parts: list[bytes], scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.timeout_s):
                body = await self._read(parts, scope, receive)
        except TimeoutError:
            text = f"the body did not arrive within {self.timeout_s:g} s"
            await self._refuse(RefusedError(408, text, headers=CLOSE), scope, receive, send)
            return
        except RefusedError as refused:
            await self._refuse(refused, scope, receive, send)
            return
        if body is None:
            return  # the client has left
        handler = self.handlers.get(scope["path"])
        if handler is not None and scope["method"] == "POST":
            response = await handler(body, time.monotonic(), receive)
            await response(scope, receive, send)
            return
        first = True

        async def replay() -> Message:
            nonlocal first
            if first:
                first = False
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        await self.app(scope, replay, send)

    async def _refuse(
        self, refused: RefusedError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["path"] in self.handlers:
            self.on_refused(refused.status)
        await refused.response()(scope, receive, send)

    async def _read(self, parts: list[bytes], scope: Scope, receive: Receive) -> bytes | None:
        """The body, and its parts in `parts`; None if the client leaves before its end."""
        self._check(_content_length(scope))
        size = 0
        while True:
            message: dict[str, Any] = dict(await receive())
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            self.held += len(parts[-1])
            self._check(size)
            if self.held > self.max_held:
                text = f"the service holds {self.held:,} bytes of bodies; try again later"
                raise RefusedError(429, text, headers=RETRY | CLOSE)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _check(self, size: int) -> None:
        if size > self.max_bytes:
            refused = refuse_field("body", f"at most {self.max_bytes:,} bytes", f"{size:,} or more")
            raise RefusedError(413, "the body is too large", refused.problems, CLOSE)


CLOSE = {"Connection": "close"}
RETRY = {"Retry-After": "1"}


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
