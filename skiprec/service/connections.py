"""Connections of the service: bounds on what one may send and how long it may take, a gentle end.

uvicorn bounds neither the size of a request's head nor the time that it takes to arrive.
"""

import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from skiprec.service.limits import Limits

MAX_HEAD_BYTES = 64 * 1024
# A body in small chunks takes several bytes on the wire for each of its own.
WIRE_BYTES = 8
# How long an idle connection stays open after SIGTERM: a request may be on its way.
LINGER_S = 1.0


class Connection(HttpToolsProtocol):
    """A connection of a client.

    It is closed if a head does not arrive within `limits.body_timeout_s`, if a message is longer
    than any that could be answered, or if there are more than `limits.max_connections`.
    """

    def __init__(self, limits: Limits, **of_uvicorn: Any):
        super().__init__(**of_uvicorn)
        self._limits = limits
        self._in_body = self._has_ended = self._is_ending = False
        self._message_bytes = 0
        self._head_timer: Any = None

    def connection_made(self, transport: Any) -> None:
        """Waits for the first head, unless there are too many connections."""
        super().connection_made(transport)
        self._wait_for_head()
        most = self._limits.max_connections
        if len(self.connections) > most:
            self._refuse(503, f"the service has {most} connections; try again later")

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the timer, too."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what comes, after uvicorn has parsed it."""
        self._has_ended = False
        if self._head_timer is None and not self._in_body:
            self._wait_for_head()
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._message_bytes = 0 if self._has_ended else self._message_bytes + len(data)
        if self._message_bytes > self._most_bytes():
            if self._in_body:
                self._refuse(413, "the body is too large")
            else:
                self._refuse(431, f"expected a head of at most {MAX_HEAD_BYTES:,} bytes")

    def on_headers_complete(self) -> None:
        """A head is complete; while the service ends, its answer is the connection's last."""
        self._stop_timer()
        self._in_body = True
        super().on_headers_complete()
        if self._is_ending and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """A request is complete; the next head is waited for from its first byte on."""
        self._in_body, self._has_ended = False, True
        super().on_message_complete()

    def shutdown(self) -> None:
        """Called by uvicorn at the end. An idle connection stays open for a moment."""
        if self.cycle is None or self.cycle.response_complete:
            self._is_ending = True
            self.loop.call_later(LINGER_S, super().shutdown)
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets an error of the form of all others."""
        self._refuse(400, msg)

    def _most_bytes(self) -> float:
        body_bytes = WIRE_BYTES * 1e6 * self._limits.max_body_mb
        return MAX_HEAD_BYTES + (body_bytes if self._in_body else 0)

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.body_timeout_s, self._on_silence)

    def _on_silence(self) -> None:
        text = f"the head of a request did not arrive within {self._limits.body_timeout_s:g} s"
        self._refuse(408, text)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, error: str) -> None:
        """Answers without the application, and closes the connection."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:  # else an answer is being written
            body = json.dumps({"error": error, "problems": []}).encode()
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(
                STATUS_LINE[status] + head.encode() + b"connection: close\r\n\r\n" + body
            )
        self.transport.close()
