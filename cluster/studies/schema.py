"""The shape of a study's small results, `<row>-s<seed>.json` in its folder of results."""

from typing import NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from skiprec.evaluation.report.schema import (
    COMPLETE,
    Accuracy,
    Conditions,
    Difference,
    FixedSet,
    Knob,
    LearnedPoint,
    Metrics,
    PolicyNumbers,
    PolicyPoint,
    Row,
)

_Training = TypedDict("_Training", {"best_mrr@20": float})


@with_config(COMPLETE)
class SmallSet(Accuracy):
    """A point of the frontier: these blocks for everyone."""

    kept_blocks: int
    blocks: list[int]


@with_config(COMPLETE)
class SmallPoint(Accuracy):
    """A point of the learned curve."""

    kept_blocks: float
    setting: float
    minus_frontier: Accuracy
    minus_hull: Accuracy


@with_config(COMPLETE)
class SmallFrontier(TypedDict):
    """The frontier of a report; its points have one metric. Early results hold whole points."""

    hull: list[int]
    served: PolicyPoint
    knob: Knob | None
    sets: list[SmallSet] | list[FixedSet]
    learned: list[SmallPoint] | list[LearnedPoint]


@with_config(COMPLETE)
class Learning(TypedDict):
    """The learning curves as (epochs, hours, value)."""

    loss: list[tuple[float, float, float]]
    mrr: list[tuple[float, float, float]]


@with_config(COMPLETE)
class Training(_Training):
    """How long the run was trained, and its validation."""

    steps: int
    best_step: int
    minutes: float
    curve: Learning


@with_config(COMPLETE)
class TrainedBy(TypedDict):
    """The contents of the run's `run.json`."""

    config_hash: str
    commit: str | None
    versions: dict[str, str]
    started: str


@with_config(COMPLETE)
class PairedWith(TypedDict):
    """The run whose evaluation the differences are to."""

    name: str
    config_hash: str


@with_config(COMPLETE)
class RunFacts(TypedDict):
    """The part of a result that does not come from the report."""

    row: str
    label: str
    seed: int
    config: dict[str, object]
    earlier: list[dict[str, object]]
    trained_by: TrainedBy
    training: Training


@with_config(COMPLETE)
class StudyResult(RunFacts):
    """What a study keeps of one run: enough for its tables and figures, and small enough to commit.

    `against_reference` holds the differences of each arm to the reference of the same seed. It is
    absent until both evaluations were there at once.
    """

    rows: list[Row]
    differences: list[Difference]
    policy: PolicyNumbers | None
    frontier: SmallFrontier | None
    flops_full_row: int
    statements: list[str]
    conditions: Conditions
    against_reference: NotRequired[dict[str, Metrics]]
    paired_with: NotRequired[PairedWith]
