"""The serving path: histories in, lists of items out, skipped blocks not run."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from skiprec.network import SkipRecNetwork
from skiprec.ranking import top_items
from skiprec.types import History, KeepDecision

Decide = Callable[[SkipRecNetwork, History], KeepDecision | None]


def every_block(network: SkipRecNetwork, history: History) -> None:
    """Decides as if there were no policy."""


@torch.inference_mode()
def recommend(
    network: SkipRecNetwork,
    items_BT: Tensor,
    k: int,
    exclude_seen: bool,
    decide: Decide = SkipRecNetwork.decide,
) -> tuple[Tensor, Tensor]:
    """`items_BK` and `scores_BK`, best first; a block runs on the rows that keep it alone.

    Args:
        network: in evaluation mode.
        items_BT: left-padded histories; all T items are read, there is no target among them.
        decide: who says which blocks run; the network's own policy unless a comparison is made.
    """
    history = embed_requests(network, items_BT)
    decision = decide(network, history)
    x_TBD = network.encode(history, decision, "dense" if decision is None else "gathered")
    use = partial(top_items, k=k, seen_BT=items_BT if exclude_seen else None)
    found: tuple[Tensor, Tensor] = network.head(x_TBD[-1], use)
    return found


def embed_requests(network: SkipRecNetwork, items_BT: Tensor) -> History:
    """What the policy and the blocks read."""
    return network.embed(items_BT, request_keys(items_BT))


def request_keys(items_BT: Tensor) -> Tensor:
    """Functions of the histories: a policy that draws answers a request alike each time."""
    return items_BT.sum(1)
