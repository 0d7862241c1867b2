"""The shape of the lines of `trials.jsonl`."""

from typing import NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from skiprec.evaluation.report.schema import COMPLETE, Accuracy

_Numbers = TypedDict(
    "_Numbers",
    {
        "samples": int,
        "mrr@20": float,
        "keep_frac": float,
        "flops_speedup": float,
        "distinct_decisions": float,
    },
)
_OptionalNumbers = TypedDict(
    "_OptionalNumbers",
    {
        "samples": int | None,
        "mrr@20": float | None,
        "keep_frac": float | None,
        "flops_speedup": float | None,
        "distinct_decisions": float | None,
    },
)


class _Trial(TypedDict):
    trial: str
    run: str
    complete: bool
    failed: bool
    kind: str
    settings: dict[str, object]


@with_config(COMPLETE)
class TrialLine(_Trial, _OptionalNumbers):
    """A trial with its newest result; before its first result the numbers are None."""


@with_config(COMPLETE)
class HeldOutNumbers(Accuracy):
    """Accuracy on test rows, on which the sweep did not search, and measured speed."""

    speedup_flops: float
    speedup_end_to_end: float | None


@with_config(COMPLETE)
class TrialRow(_Trial, _Numbers):
    """A trial that has a result; `test` is there once the trial was evaluated on test rows."""

    test: NotRequired[HeldOutNumbers]
