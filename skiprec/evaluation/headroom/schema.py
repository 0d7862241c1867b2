"""The shape of `headroom.json`."""

from typing import NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from skiprec.evaluation.measure.intervals import Interval
from skiprec.evaluation.report.schema import COMPLETE, Accuracy


@with_config(COMPLETE)
class NestedSet(Accuracy):
    """One set of the nest on the held-out rows; its cost is that above all blocks, in nats."""

    kept_blocks: int
    cost_nats: float
    cost_nats_interval: Interval


@with_config(COMPLETE)
class PredictedSet(NestedSet):
    """How well a set's loss of MRR@20 is predicted. The set of all blocks loses nothing."""

    cost_nats_fit_rows: float
    cost_nats_std: NotRequired[float]
    penalty: NotRequired[float]
    correlation: NotRequired[float | None]
    correlation_interval: NotRequired[Interval | None]


@with_config(COMPLETE)
class CostDifference(TypedDict):
    """A difference of cross-entropies with its interval over users."""

    nats: float
    nats_interval: Interval


@with_config(COMPLETE)
class Gains(TypedDict):
    """What personal depth gains over fixed sets of the same mean, and over their best coins."""

    minus_frontier: Accuracy
    minus_hull: Accuracy


@with_config(COMPLETE)
class AllGains(Gains):
    """`Gains`, and the difference in cross-entropy to the frontier."""

    nats_minus_frontier: CostDifference


@with_config(COMPLETE)
class Pair(Accuracy, AllGains):
    """Two sets: the half of the rows with the lower predicted loss gets the shallow one."""

    shallow: int
    deep: int
    kept_blocks: float
    random_half: float
    minus_random_half: Accuracy


@with_config(COMPLETE)
class PricedPoint(Accuracy, AllGains):
    """Each row by the set with the least predicted loss of MRR@20 + price * share of the blocks."""

    price: float
    kept_blocks: float


@with_config(COMPLETE)
class HeadroomConditions(TypedDict):
    """The conditions of a measurement."""

    name: str
    command: str
    backbone: str
    num_blocks: int
    width: int
    policy: str
    trained_to_skip: bool
    reads_after: int | None
    data: str
    split: str
    rows: int
    fit_split: str
    fit_rows: int
    nest_rows: int
    device: str
    threads: int
    commit: str | None
    config_hash: str
    versions: dict[str, str]
    written: str
    seconds: float


@with_config(COMPLETE)
class HeadroomReport(TypedDict):
    """The contents of `headroom.json`.

    `removed_first` holds the blocks in order of removal; it is None for a network with exits, whose
    sets are the first blocks up to each exit.
    """

    removed_first: list[int] | None
    sets: list[NestedSet]
    sizes: list[PredictedSet]
    pairs: list[Pair]
    curve: list[PricedPoint]
    curve_mean: Gains
    hull: list[int]
    shared_users_frac: float
    conditions: HeadroomConditions
    statements: list[str]
