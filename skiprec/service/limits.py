"""What one request and all waiting requests may ask of the service."""

import math
from dataclasses import dataclass, fields

from skiprec.inference.native.library import MAX_K


@dataclass(frozen=True)
class Limits:
    """Limits of the service. Every field is an option of `jobs/serve_model.py`.

    Args:
        max_body_mb: largest body of a request, in MB.
        max_histories: most histories in a request.
        max_k: largest list.
        max_waiting: most histories that may wait for the executor; further requests get 429.
        batch_rows: most histories in one call of the executor.
        deadline_ms: a request that has waited this long is answered with 504 and not computed.
        body_timeout_s: longest time that a head or a body may take to arrive.
        max_items: most items in one answer, over all of its lists.
        max_waiting_mb: bodies that are held at once, in MB; further requests get 429.
        max_connections: most connections; a further one gets 503.
    """

    max_body_mb: float = 4.0
    max_histories: int = 256
    max_k: int = 1000
    max_waiting: int = 1024
    batch_rows: int = 256
    deadline_ms: float = 1000.0
    body_timeout_s: float = 10.0
    max_items: int = 50_000
    max_waiting_mb: float = 32.0
    max_connections: int = 500

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not 0 < value < math.inf:
                raise ValueError(f"{one.name} is {value}; expected a number above 0")
        if self.max_k > MAX_K:
            raise ValueError(f"max_k is {self.max_k}; the executor gives lists of {MAX_K} at most")
        if self.max_waiting < self.max_histories:
            raise ValueError(
                f"max_waiting={self.max_waiting} is below max_histories={self.max_histories}: a "
                "request of that size could never wait"
            )
        if self.max_waiting_mb < self.max_body_mb:
            raise ValueError(
                f"max_waiting_mb={self.max_waiting_mb} is below max_body_mb={self.max_body_mb}: a "
                "body of that size could never be read"
            )
