"""What is compared with the learned policy: each arm is a keep decision for every row."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skiprec import keyed_random
from skiprec.evaluation.measure.frontier import frontier_sizes
from skiprec.policy.knobs import Numbers

Keep = NDArray[np.bool_]
# Name -> `[rows, blocks]`, or `[1, blocks]` where every row gets the same.
Arms = dict[str, Keep]

POLICY_ARMS = ("all_blocks", "skiprec", "random", "fixed", "shuffled")
SEED = keyed_random.stream_id("evaluation-arms")


@dataclass(frozen=True)
class Decided:
    """A policy's decisions, and the numbers that it made them from.

    `numbers_RK` are what its knob reads: P(keep) of each block, or the predicted cost of each
    offered set. None for a control.
    """

    keep_RL: Keep
    numbers_RK: Numbers | None


def concatenate(parts: list[Decided]) -> Decided:
    """The decisions about the rows of several parts, in their order."""
    numbers = [part.numbers_RK for part in parts if part.numbers_RK is not None]
    keep_RL = np.concatenate([part.keep_RL for part in parts])
    return Decided(keep_RL, np.concatenate(numbers) if numbers else None)


def arms_of(keep_RL: Keep, row_R: NDArray[np.int64]) -> Arms:
    """The learned decisions of all rows and the controls: `POLICY_ARMS`, then the frontier.

    random: each block of each row by a coin of the same mean. fixed: for everyone, the blocks that
    are kept most, as many as are kept on average. shuffled: the same decisions, each for another
    row. fixed_<size>: the most kept blocks, at each size of the frontier but that of `all_blocks`.
    All are functions of the decisions and row numbers alone.
    """
    num_rows, num_blocks = keep_RL.shape
    coin_RL = keyed_random.uniform(torch.from_numpy(row_R), "random-arm", num_blocks).numpy()
    mean_kept = float(keep_RL.sum(1).mean())
    arms = {
        "all_blocks": np.ones((1, num_blocks), bool),
        "skiprec": keep_RL,
        "random": coin_RL < float(keep_RL.mean()),
        "fixed": most_kept(keep_RL, round(mean_kept)),
        "shuffled": keep_RL[keyed_random.permutation(SEED, num_rows)],
    }
    sizes = frontier_sizes(num_blocks, mean_kept)
    return arms | {f"fixed_{size:02d}": most_kept(keep_RL, size) for size in sizes}


def most_kept(keep_RL: Keep, size: int) -> Keep:
    """`[1, L]`: the `size` blocks with the highest keep rates; the earlier of equals."""
    by_rate_L = np.argsort(-keep_RL.mean(0), kind="stable")
    keep_1L = np.zeros((1, keep_RL.shape[1]), bool)
    keep_1L[0, by_rate_L[:size]] = True
    return keep_1L


def take_rows(arms: Arms, rows: Any) -> Arms:
    """The arms of some rows, by a slice or by their places."""
    return {name: keep if len(keep) == 1 else keep[rows] for name, keep in arms.items()}


def stack_arms(arms: Arms, num_rows: int) -> Keep:
    """`keep_ARL`, in the order of the names."""
    shape = (num_rows, next(iter(arms.values())).shape[1])
    return np.stack([np.broadcast_to(keep, shape) for keep in arms.values()])
