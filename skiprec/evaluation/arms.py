"""What is compared with the learned policy: each arm is a keep decision for every row."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from skiprec import keyed_random

Keep = NDArray[np.bool_]

POLICY_ARMS = ("all_blocks", "skiprec", "random", "fixed", "shuffled")
SEED = keyed_random.stream_id("evaluation-arms")


@dataclass(frozen=True)
class Controls:
    """The arms of the run's own weights, as `[rows, blocks]`, in the order of `POLICY_ARMS`."""

    keep_ARL: Keep
    fixed_blocks: tuple[int, ...]


def controls_of(keep_RL: Keep, row_R: NDArray[np.int64]) -> Controls:
    """From the learned decisions of all rows, the controls that keep as much.

    random: each block of each row by a coin of the same mean. fixed: for everyone, the blocks that
    are kept most, as many as are kept on average. shuffled: the same decisions, each for another
    row. All are functions of the decisions and row numbers alone.
    """
    num_rows, num_blocks = keep_RL.shape
    keep_frac = float(keep_RL.mean())
    coin_RL = keyed_random.uniform(torch.from_numpy(row_R), "random-arm", num_blocks).numpy()
    fixed_blocks = most_kept_blocks(keep_RL)
    fixed_L = np.zeros(num_blocks, bool)
    fixed_L[list(fixed_blocks)] = True
    arms = {
        "all_blocks": np.ones_like(keep_RL),
        "skiprec": keep_RL,
        "random": coin_RL < keep_frac,
        "fixed": np.broadcast_to(fixed_L, keep_RL.shape),
        "shuffled": keep_RL[keyed_random.permutation(SEED, num_rows)],
    }
    return Controls(np.stack([arms[name] for name in POLICY_ARMS]), fixed_blocks)


def most_kept_blocks(keep_RL: Keep) -> tuple[int, ...]:
    """round(mean kept) blocks, those with the highest keep rates; the earlier of equals."""
    size = round(float(keep_RL.sum(1).mean()))
    by_rate = np.argsort(-keep_RL.mean(0), kind="stable")
    return tuple(sorted(int(block) for block in by_rate[:size]))
