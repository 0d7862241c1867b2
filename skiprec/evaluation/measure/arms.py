"""The arms of an evaluation: the learned policy, its rivals, and the names of their results."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from skiprec import keyed_random
from skiprec.evaluation.measure.frontier import frontier_sizes
from skiprec.policy.knobs import Numbers

ArmKind = Literal[
    "popularity",  # all items by their frequency in the training rows
    "own_frequent",  # the row's own items by frequency, then the rest
    "last_items",  # the row's own items by recency, then the rest
    "full_backbone",  # the pretraining run, all blocks
    "exit",  # an exit of the pretraining run for everyone; the number is its depth
    "all_blocks",  # the weights of this run, all blocks
    "skiprec",  # the learned decisions, as they are served
    "random",  # each block of each row by a coin with the mean of the learned decisions
    "fixed",  # for everyone, the blocks that are kept most; with a number: this many of them
    "frontier",  # a coin between the two fixed sets around the mean number of blocks of an arm
    "hull",  # the coin between any two fixed sets that reaches most with this mean
    "shuffled",  # the learned decisions, each applied to another row
    "learned",  # the policy at another setting of its knob; the number is the place on the curve
    "masked",  # the learned decisions, but every block is computed
    "oracle",  # the learned decisions without the cost of making them
    "shallow",  # a static network of the first blocks
    "full",  # the reference of costs and times: all blocks, no policy
]
RANK_COLUMN = "rank_"

Keep = NDArray[np.bool_]


@dataclass(frozen=True)
class Arm:
    """One way to recommend, and the names under which tables and reports hold its results.

    Args:
        number: the number of blocks of a point of the frontier ("fixed") or before an exit
            ("exit"), or the place of a point on the learned curve ("learned"). A "frontier" or
            "hull" with a number stands at the mean number of blocks of that point of the learned
            curve, one without at that of "skiprec". "fixed" without a number has as many blocks as
            the policy keeps on average.
    """

    kind: ArmKind
    number: int | None = None

    @property
    def name(self) -> str:
        """The name in reports: the kind, and the number in two digits."""
        return self.kind if self.number is None else f"{self.kind}_{self.number:02d}"

    @property
    def rank_column(self) -> str:
        """The column of the per-user table with the ranks of the targets."""
        return f"{RANK_COLUMN}{self.name}"

    @property
    def blocks_kept_column(self) -> str:
        """The column of the per-user table with the number of blocks that run."""
        return f"blocks_kept_{self.name}"

    @property
    def flops_column(self) -> str:
        """The column of the per-user table with the FLOPs."""
        return f"flops_{self.name}"

    @property
    def time_column(self) -> str:
        """The column of the per-user table with the seconds of a request."""
        return f"time_{self.name}_s"

    @property
    def is_fixed_set(self) -> bool:
        """Whether the arm is a point of the frontier of fixed sets."""
        return self == ALL_BLOCKS or (self.kind == "fixed" and self.number is not None)

    @property
    def is_decided_by_the_policy(self) -> bool:
        """Whether the policy network makes the decisions; its FLOPs then count, too."""
        return self.kind in ("skiprec", "shuffled", "learned")


def arm_named(name: str) -> Arm:
    """The arm that a report names.

    Raises:
        ValueError: no arm has this name.
    """
    for kind in get_args(ArmKind):
        number = name.removeprefix(f"{kind}_")
        if name == kind:
            return Arm(kind)
        if number != name and number.isdecimal():
            return Arm(kind, int(number))
    raise ValueError(f"no arm is named {name!r}; expected one of {', '.join(get_args(ArmKind))}")


def scored_arms(columns: Iterable[str]) -> list[Arm]:
    """The arms that a per-user table holds ranks of, in the order of its columns."""
    return [
        arm_named(column.removeprefix(RANK_COLUMN))
        for column in columns
        if column.startswith(RANK_COLUMN)
    ]


FULL_BACKBONE, ALL_BLOCKS, SKIPREC = Arm("full_backbone"), Arm("all_blocks"), Arm("skiprec")
RANDOM, FIXED, SHUFFLED = Arm("random"), Arm("fixed"), Arm("shuffled")
MASKED, ORACLE, SHALLOW = Arm("masked"), Arm("oracle"), Arm("shallow")
FRONTIER, HULL, FULL = Arm("frontier"), Arm("hull"), Arm("full")
POPULARITY, OWN_FREQUENT, LAST_ITEMS = Arm("popularity"), Arm("own_frequent"), Arm("last_items")

# Baselines without a network.
BASELINES = (POPULARITY, OWN_FREQUENT, LAST_ITEMS)
# Arms that run the weights of this run, the first of `arms_of`.
POLICY_ARMS = (ALL_BLOCKS, SKIPREC, RANDOM, FIXED, SHUFFLED)
# Coins between two fixed sets: their results are computed from those of the sets, not measured.
MIXTURES = (FRONTIER, HULL)
# Arms that differ from another one in their time alone.
TIMED_ONLY = (MASKED, ORACLE, SHALLOW)
# The rows of a report that have an accuracy, in their order.
REPORTED = (*BASELINES, FULL_BACKBONE, ALL_BLOCKS, SKIPREC, RANDOM, FIXED, *MIXTURES, SHUFFLED)
# The arms that a report subtracts from `SKIPREC`.
RIVALS = tuple(arm for arm in REPORTED if arm not in (*BASELINES, SKIPREC))

# `[rows, blocks]` of each arm, or `[1, blocks]` where every row gets the same.
Arms = dict[Arm, Keep]

SEED = keyed_random.stream_id("evaluation-arms")


@dataclass(frozen=True)
class Decided:
    """A policy's decisions, and the numbers on which they are based.

    `numbers_RK` is the input of the policy's knob: P(keep) of each block, or the predicted cost of
    each offered set of blocks. None for a policy that learns nothing.
    """

    keep_RL: Keep
    numbers_RK: Numbers | None


def concatenate(parts: list[Decided]) -> Decided:
    """The decisions about the rows of several parts, in their order."""
    numbers = [part.numbers_RK for part in parts if part.numbers_RK is not None]
    keep_RL = np.concatenate([part.keep_RL for part in parts])
    return Decided(keep_RL, np.concatenate(numbers) if numbers else None)


def arms_of(keep_RL: Keep, row_R: NDArray[np.int64], exits: tuple[int, ...] | None = None) -> Arms:
    """The learned decisions of all rows and their controls: `POLICY_ARMS`, then the frontier.

    All of them are functions of the decisions and the row numbers alone. The frontier has a fixed
    set of each of its sizes; the largest one is `ALL_BLOCKS`.

    Args:
        exits: of the network. Its fixed sets are then the exits, and `FIXED` is the one nearest to
            the mean: at other depths no norm has been trained.
    """
    num_rows, num_blocks = keep_RL.shape
    coin_RL = keyed_random.uniform(torch.from_numpy(row_R), "random-arm", num_blocks).numpy()
    mean_kept = float(keep_RL.sum(1).mean())
    size = round(mean_kept)
    sizes = frontier_sizes(num_blocks, mean_kept)
    if exits is not None:
        size = min(exits, key=lambda depth: abs(depth - mean_kept))
        sizes = (0, *exits[:-1])
    arms = {
        ALL_BLOCKS: np.ones((1, num_blocks), bool),
        SKIPREC: keep_RL,
        RANDOM: coin_RL < float(keep_RL.mean()),
        FIXED: fixed_set(keep_RL, size, exits),
        SHUFFLED: keep_RL[keyed_random.permutation(SEED, num_rows)],
    }
    return arms | {Arm("fixed", size): fixed_set(keep_RL, size, exits) for size in sizes}


def fixed_set(keep_RL: Keep, size: int, exits: tuple[int, ...] | None) -> Keep:
    """`[1, L]`: so many blocks for everyone, the most kept ones; with exits, the first ones."""
    return most_kept(keep_RL, size) if exits is None else first_blocks(size, keep_RL.shape[1])


def most_kept(keep_RL: Keep, size: int) -> Keep:
    """`[1, L]`: the `size` blocks with the highest keep rates; of equal ones the earlier."""
    by_rate_L = np.argsort(-keep_RL.mean(0), kind="stable")
    keep_1L = np.zeros((1, keep_RL.shape[1]), bool)
    keep_1L[0, by_rate_L[:size]] = True
    return keep_1L


def first_blocks(size: int, num_blocks: int) -> Keep:
    """`[1, L]`: the first `size` blocks."""
    return (np.arange(num_blocks) < size)[None]


def take_rows(arms: Arms, rows: Any) -> Arms:
    """The arms of some rows, which are chosen by a slice or by their places."""
    return {arm: keep if len(keep) == 1 else keep[rows] for arm, keep in arms.items()}


def stack_arms(arms: Arms, num_rows: int) -> Keep:
    """`keep_ARL`, in the order of the arms."""
    shape = (num_rows, next(iter(arms.values())).shape[1])
    return np.stack([np.broadcast_to(keep, shape) for keep in arms.values()])
