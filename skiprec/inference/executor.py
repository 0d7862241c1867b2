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
    times_BW: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`items_BK` and `scores_BK`, best first. A block runs only on the rows that keep it.

    Args:
        network: in evaluation mode.
        items_BT: left-padded histories of item ids, without a target.
        k: number of items in each list.
        exclude_seen: whether items of the history are left out.
        decide: makes the keep decision; by default the policy of the network.
        times_BW: the times of the items and, last, of the request, for a network that reads time.

    Raises:
        ValueError: `items_BT` is not what it should be; the message names the first bad row.
    """
    check_histories(items_BT, network.num_items)
    history = embed_requests(network, items_BT, times_BW)
    decision = decide(network, history)
    x_BD = network.encode_last(history, decision, "dense" if decision is None else "gathered")
    use = partial(top_items, k=k, seen_BT=items_BT if exclude_seen else None)
    best: tuple[Tensor, Tensor] = network.head(x_BD, use)
    return best


def check_histories(items_BT: Tensor, num_items: int) -> None:
    """Checks that each row is a history: ids of the catalogue with padding (0) on the left only.

    Raises:
        ValueError: another shape or type, no item, an unknown id, or padding behind an item.
    """
    if items_BT.dim() != 2 or items_BT.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"expected histories as whole numbers [rows, positions], got {items_BT.dtype} of shape "
            f"{list(items_BT.shape)}; a single history needs a dimension in front: items[None]"
        )
    if items_BT.numel() == 0:
        raise ValueError(f"expected at least one row and one position, got {list(items_BT.shape)}")
    is_bad_B = (items_BT < 0).any(1) | (items_BT > num_items).any(1)
    if is_bad_B.any():
        row = int(is_bad_B.nonzero()[0])
        raise ValueError(
            f"row {row} holds {items_BT[row].tolist()}; expected ids of the catalogue, which are "
            f"1..{num_items}, and 0 for padding"
        )
    # A row without an item ends in padding, too.
    is_bad_B = (items_BT[:, -1] == 0) | ((items_BT[:, 1:] == 0) & (items_BT[:, :-1] > 0)).any(1)
    if is_bad_B.any():
        row = int(is_bad_B.nonzero()[0])
        raise ValueError(
            f"row {row} holds {items_BT[row].tolist()}; expected a history with its newest item in "
            "the last position, and padding (0) only to the left of the oldest one"
        )


def embed_requests(
    network: SkipRecNetwork, items_BT: Tensor, times_BW: Tensor | None = None
) -> History:
    """The embedded histories, which the policy and the blocks read."""
    return network.embed(items_BT, request_keys(items_BT), times_BW)


def request_keys(items_BT: Tensor) -> Tensor:
    """`[B]`: the keys of the rows, which are a function of the histories alone.

    A policy that samples therefore gives the same answer to the same request.
    """
    return items_BT.sum(1)
