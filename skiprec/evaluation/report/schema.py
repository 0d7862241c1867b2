"""The shape of `report.json`. Reports are dictionaries of these types, in memory and in the file.

The order of a record's keys in the file is that of the code that makes the record.
"""

from collections.abc import Callable, Mapping
from typing import NotRequired, cast

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from skiprec.evaluation.measure.intervals import Interval
from skiprec.ranking import METRIC_CUTS

METRICS = tuple(METRIC_CUTS)
# The metric of the claims, the frontier and the pictures.
METRIC = "mrr@20"
SPEEDUPS = ("speedup_flops", "speedup_blocks", "speedup_policy", "speedup_end_to_end")
COMPLETE = ConfigDict(extra="forbid")

_Metrics = TypedDict(
    "_Metrics",
    {
        "mrr@5": float,
        "mrr@5_interval": Interval,
        "mrr@20": float,
        "mrr@20_interval": Interval,
        "hr@5": float,
        "hr@5_interval": Interval,
        "hr@20": float,
        "hr@20_interval": Interval,
        "hr@10": float,
        "hr@10_interval": Interval,
        "ndcg@10": float,
        "ndcg@10_interval": Interval,
    },
)
_OptionalMetrics = TypedDict(
    "_OptionalMetrics",
    {
        "mrr@5": float | None,
        "mrr@5_interval": Interval | None,
        "mrr@20": float | None,
        "mrr@20_interval": Interval | None,
        "hr@5": float | None,
        "hr@5_interval": Interval | None,
        "hr@20": float | None,
        "hr@20_interval": Interval | None,
        "hr@10": float | None,
        "hr@10_interval": Interval | None,
        "ndcg@10": float | None,
        "ndcg@10_interval": Interval | None,
    },
)

_Accuracy = TypedDict("_Accuracy", {"mrr@20": float, "mrr@20_interval": Interval})


@with_config(COMPLETE)
class Accuracy(_Accuracy):
    """`METRIC` alone, of an arm or of a difference between two, with its interval over users."""


@with_config(COMPLETE)
class Metrics(_Metrics):
    """Each metric with its interval: of an arm, or of the difference between two arms."""


@with_config(COMPLETE)
class ArmMetrics(_Metrics):
    """The metrics of a scored arm. An arm without blocks, such as a baseline, has no FLOPs."""

    speedup_flops: NotRequired[float]
    speedup_flops_interval: NotRequired[Interval]


@with_config(COMPLETE)
class Row(_OptionalMetrics):
    """A line of the report's first table; a number that was not measured is None."""

    name: str
    keep_frac: float | None
    speedup_flops: float | None
    speedup_flops_interval: Interval | None
    speedup_blocks: float | None
    speedup_blocks_interval: Interval | None
    speedup_policy: float | None
    speedup_policy_interval: Interval | None
    speedup_end_to_end: float | None
    speedup_end_to_end_interval: Interval | None


@with_config(COMPLETE)
class Difference(_Metrics):
    """The metrics of the arm `of` minus those of the arm `minus`, paired by user."""

    of: str
    minus: str


@with_config(COMPLETE)
class FixedSet(ArmMetrics):
    """A point of the frontier: these blocks for everyone."""

    name: str
    kept_blocks: int
    blocks: list[int]


@with_config(COMPLETE)
class PolicyPoint(ArmMetrics):
    """The policy at one setting, and its gain over coins of the same mean number of blocks.

    `frontier_between` and `hull_between` are the sizes of the two sets of each coin.
    """

    name: str
    kept_blocks: float
    frontier_between: list[int]
    hull_between: list[int]
    minus_frontier: Metrics
    minus_hull: Metrics


@with_config(COMPLETE)
class LearnedPoint(PolicyPoint):
    """A point of the learned curve, and the setting of the policy's knob."""

    setting: float


@with_config(COMPLETE)
class Knob(TypedDict):
    """The knob of the learned curve, and its setting in serving."""

    name: str
    served: float


@with_config(COMPLETE)
class Frontier(TypedDict):
    """Accuracy against depth; `hull` holds the sizes of the sets that the best coins mix."""

    sets: list[FixedSet]
    hull: list[int]
    served: PolicyPoint
    knob: Knob | None
    learned: list[LearnedPoint]


@with_config(COMPLETE)
class PolicyNumbers(TypedDict):
    """Whether the decisions differ between users, and what correlates with them."""

    distinct_decisions: int
    between_user_share: float
    keep_rate_of_block: list[float]
    num_fixed_blocks: int
    kept_blocks_mean: float
    kept_blocks_std: float
    kept_blocks_histogram: list[int]
    kept_length_correlation: float | None
    top20_equal_share: float
    top20_shared_mean: float
    kept_time_correlation: NotRequired[float | None]
    timed_rows: NotRequired[int]


@with_config(COMPLETE)
class Flops(TypedDict):
    """FLOPs of one row by part; with a policy, also the speedups by arithmetic."""

    embedding: int
    policy: int
    blocks: list[int]
    head: int
    full_row: int
    skiprec_row: NotRequired[float]
    speedup_blocks: NotRequired[float | None]
    speedup_policy: NotRequired[float | None]
    speedup_end_to_end: NotRequired[float]


@with_config(COMPLETE)
class Speedups(TypedDict, total=False):
    """Medians of paired ratios of times, for the parts that were timed."""

    speedup_blocks: float
    speedup_blocks_interval: Interval
    speedup_policy: float
    speedup_policy_interval: Interval
    speedup_end_to_end: float
    speedup_end_to_end_interval: Interval


@with_config(COMPLETE)
class TotalSpeedups(TypedDict, total=False):
    """Ratios of the sums of all times, for the parts that were timed."""

    speedup_blocks: float
    speedup_policy: float
    speedup_end_to_end: float


@with_config(COMPLETE)
class Latency(TypedDict):
    """Percentiles of the times of a stage."""

    p50_s: float
    p95_s: float
    p99_s: float


@with_config(COMPLETE)
class Amdahl(TypedDict):
    """The speedup that Amdahl's law predicts from the times of the parts, and the measured one."""

    blocks_share_of_full: float
    policy_share_of_full: float
    predicted: float
    limit_if_all_blocks_were_free: float
    measured: float
    measured_interval: Interval


@with_config(COMPLETE)
class Timing(TypedDict):
    """The times at one batch size: speedups by arm, latencies by stage, users a second by arm."""

    rounds: int
    speedups: dict[str, Speedups]
    in_total: dict[str, TotalSpeedups]
    latency: dict[str, Latency]
    users_per_s: dict[str, float]
    amdahl: NotRequired[Amdahl]
    warm: NotRequired["Timing"]


@with_config(COMPLETE)
class NativeAgreement(TypedDict):
    """How the timed executor's answers differ from PyTorch's, over all evaluated rows.

    `largest_gap` is that of two scores at a place where lists differ, as a share of the largest
    score of the list. `mrr` and `mrr_pytorch` are those of the two executors' lists.
    """

    rows: int
    lists_differ: int
    largest_gap: float
    decisions_differ: int
    mrr: NotRequired[float]
    mrr_pytorch: NotRequired[float]


@with_config(COMPLETE)
class Machine(TypedDict):
    """The machine that scored or timed."""

    device: str
    cpu: str
    threads: int
    dtype: str


@with_config(COMPLETE)
class MeasuredConditions(Machine):
    """The conditions of an evaluation. Early reports lack the keys that are not required."""

    name: str
    command: str
    timing_batches: list[int]
    repeats: int
    evaluation: NotRequired[dict[str, object]]
    history_length: int
    num_items: int
    num_blocks: int
    width: int
    backbone: str
    policy: dict[str, object]
    keep_frac_asked: float | None
    init_from: str | None
    init_items: NotRequired[dict[str, int] | None]
    data: str
    data_content: NotRequired[str]
    split: str
    split_kind: str | None
    rows: int
    rows_of_split: int
    exclude_seen: bool
    commit: str | None
    config_hash: str
    versions: dict[str, str]
    written: str
    evaluation_s: float
    executor: NotRequired[str]


@with_config(COMPLETE)
class Conditions(MeasuredConditions):
    """The conditions in a report; `batch` is that of the times in `rows`, None without times."""

    batch: int | None
    warmup_rounds: int


_LengthRange = TypedDict("_LengthRange", {"from": int, "to": int | None})


@with_config(COMPLETE)
class LengthRow(_LengthRange):
    """The rows whose history has `from` to `to` items before the target; the last has no end."""

    rows: int
    accuracy: dict[str, Accuracy]
    kept_blocks: NotRequired[float]


@with_config(COMPLETE)
class Report(TypedDict):
    """The contents of `report.json`. Without a policy, `frontier` and `policy` are None.

    `over_baseline` is the network minus the best baseline without one. Early reports have neither
    it nor `by_length`.
    """

    rows: list[Row]
    differences: list[Difference]
    over_baseline: NotRequired[Difference]
    frontier: Frontier | None
    policy: PolicyNumbers | None
    by_length: NotRequired[list[LengthRow]]
    flops: Flops
    timing: dict[str, Timing]
    native: NotRequired[NativeAgreement]
    conditions: Conditions
    statements: list[str]


def value_of(record: Mapping[str, object], name: str) -> float:
    """The number `name` of a record that has it."""
    return cast(float, record[name])


def interval_of(record: Mapping[str, object], name: str) -> Interval:
    """The interval of the number `name` of a record that has it."""
    return cast(Interval, record[f"{name}_interval"])


def metrics_record(estimate: Callable[[str], tuple[float, Interval]]) -> Metrics:
    """A record of all metrics.

    Args:
        estimate: from a metric's name to its value and interval.
    """
    record: dict[str, object] = {}
    for metric in METRICS:
        record[metric], record[f"{metric}_interval"] = estimate(metric)
    return cast(Metrics, record)
