"""The serving path: from histories to lists of items, without running skipped blocks."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from skiprec.network import SkipRecNetwork
from skiprec.ranking import top_items
from skiprec.types import History, KeepDecision

Decide = Callable[[SkipRecNetwork, History], KeepDecision | None]


def every_block(network: SkipRecNetwork, history: History) -> None:
    """Decides that every block runs, as without a policy."""


@torch.inference_mode()
def recommend(
    network: SkipRecNetwork,
    items_BT: Tensor,
    k: int,
    exclude_seen: bool,
    decide: Decide = SkipRecNetwork.decide,
) -> tuple[Tensor, Tensor]:
    """`items_BK` and `scores_BK`, best first. A block runs only on the rows that keep it.

    Args:
        network: in evaluation mode.
        items_BT: left-padded histories of item ids, without a target.
        k: number of items in each list.
        exclude_seen: whether items of the history are left out.
        decide: makes the keep decision; by default the policy of the network.
    """
    history = embed_requests(network, items_BT)
    decision = decide(network, history)
    x_TBD = network.encode(history, decision, "dense" if decision is None else "gathered")
    use = partial(top_items, k=k, seen_BT=items_BT if exclude_seen else None)
    best: tuple[Tensor, Tensor] = network.head(x_TBD[-1], use)
    return best


def embed_requests(network: SkipRecNetwork, items_BT: Tensor) -> History:
    """The embedded histories, which the policy and the blocks read."""
    return network.embed(items_BT, request_keys(items_BT))


def request_keys(items_BT: Tensor) -> Tensor:
    """`[B]`: the keys of the rows, which are a function of the histories alone.

    A policy that samples therefore gives the same answer to the same request.
    """
    return items_BT.sum(1)
