"""What the service counts and measures, for Prometheus; docs/serving.md lists the names."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS_S = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0),
)
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class ServiceMetrics:
    """The numbers of one service; each application has a registry of its own.

    Args:
        with_depth: whether depth follows the load.
    """

    def __init__(self, with_depth: bool = False) -> None:
        own = self.registry = CollectorRegistry()
        text = "Requests to /v1/recommend, by status."
        self.requests = Counter("skiprec_requests", text, ["status"], registry=own)
        text = "From the last byte of a request to its answer, of those answered with 200."
        self.latency = Histogram(
            "skiprec_request_seconds", text, buckets=LATENCY_BUCKETS_S, registry=own
        )
        text = "Histories in a call of the executor."
        self.rows_of_a_call = Histogram(
            "skiprec_call_rows", text, buckets=ROW_BUCKETS, registry=own
        )
        text = "Time that the executor was busy."
        self.executor_seconds = Counter("skiprec_executor_seconds", text, registry=own)
        text = "Histories in the queue."
        self.waiting = Gauge("skiprec_waiting_histories", text, registry=own)
        text = "Blocks that ran."
        self.kept_blocks = Counter("skiprec_kept_blocks", text, registry=own)
        text = "Histories answered, by source."
        self.rows = Counter("skiprec_histories", text, ["source"], registry=own)
        text = "Items of histories that the model does not know."
        self.unknown = Counter("skiprec_unknown_items", text, registry=own)
        text = "Models that took the place of another."
        self.swaps = Counter("skiprec_model_swaps", text, registry=own)
        text = "Share of blocks that the controller of the load asks for."
        self.keep = Gauge("skiprec_keep", text, registry=own if with_depth else None)
        text = "MRR@20 on validation rows at this share of blocks."
        self.expected_mrr = Gauge(
            "skiprec_expected_mrr_at_20", text, registry=own if with_depth else None
        )

    def text(self) -> bytes:
        """All numbers in the format of Prometheus."""
        return generate_latest(self.registry)
