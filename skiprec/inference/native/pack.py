"""From the weights of a network to the order in which the native library takes them.

The library reads, one after the other: item vectors, positions, policy, blocks, norms, scores.
`model.h` reads in this order.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from skiprec.inference.native.library import Shape

Weights = Mapping[str, NDArray[np.float32]]

CONVOLUTIONS, ATTENTION, AUTHORS_ATTENTION = 0, 1, 2
BACKBONES = {
    "nextitnet": CONVOLUTIONS,
    "nextitnet_plus": CONVOLUTIONS,
    "sasrec_plus": ATTENTION,
    "sasrec_plus_authors": AUTHORS_ATTENTION,
}
RUN_ALL, CHEAPEST_SET = 0, 3
RULES = {"two_logits": 1, "sigmoids": 2, "cheapest_set": CHEAPEST_SET}  # of `LinearRule`


def pack_weights(weights: Weights, shape: Shape) -> NDArray[np.float32]:
    """`[N]`: all weights of a network, by the names of its `state_dict`, in the library's order.

    Raises:
        KeyError: a weight is missing.
    """
    parts = [np.asarray(part, np.float32).reshape(-1) for part in _parts(weights, shape)]
    return np.concatenate(parts)


def _parts(weights: Weights, shape: Shape) -> Iterator[NDArray[np.float32]]:
    yield weights["embedding.table.weight"][1:]  # row 0 is padding
    if shape.backbone != CONVOLUTIONS:
        yield weights["entry.table_PD"]
    if shape.rule != RUN_ALL:
        yield from _policy(weights, shape)
    for index in range(shape.blocks):
        block = f"stack.blocks.{index}."
        if shape.backbone == CONVOLUTIONS:
            yield from _conv(weights, f"{block}conv_1.", f"{block}norm_1.")
            yield from _conv(weights, f"{block}conv_2.", f"{block}norm_2.")
            # NextItNet has no scale, which is a scale of 1.
            yield weights.get(f"{block}scale", np.ones(1, np.float32))
        else:
            yield from _attention(weights, block)
    for weight_D, bias_D in exit_norms(weights):
        yield weight_D
        yield bias_D
    for up_DH, down_HD in readout_layers(weights):
        yield up_DH
        yield down_HD
    yield score_vectors(weights)
    yield weights["head.bias_V"]


def exit_norms(weights: Weights) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Weight and bias of the norm before the scores, or of the norm of each exit."""
    if "exits.weight_MD" in weights:
        return list(zip(weights["exits.weight_MD"], weights["exits.bias_MD"], strict=True))
    if "head.norm.weight" in weights:
        return [(weights["head.norm.weight"], weights["head.norm.bias"])]
    return []


def readout_layers(weights: Weights) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The two layers of each readout, for exits that add up; else empty."""
    if "exits.up_MDH" not in weights:
        return []
    return list(zip(weights["exits.up_MDH"], weights["exits.down_MHD"], strict=True))


def score_vectors(weights: Weights) -> NDArray[np.float32]:
    """`[V, D]`: the vectors that score items, which may be those that the network reads."""
    tied_VD: NDArray[np.float32] = weights["embedding.table.weight"][1:]
    return weights.get("head.weight_VD", tied_VD)


def _policy(weights: Weights, shape: Shape) -> Iterator[NDArray[np.float32]]:
    head = "policy.head." if shape.rule == CHEAPEST_SET else "policy.head.linear."
    if shape.reads_after:
        # The last column is of the logarithm of the history's length.
        yield weights["policy.trunk.project.weight"].T
        yield weights["policy.trunk.project.bias"]
        yield weights[f"{head}weight"].T
        yield weights[f"{head}bias"]
        return
    if shape.policy_has_table:
        yield weights["policy.trunk.embedding.table.weight"][1:]
    else:
        yield weights["policy.trunk.project.weight"].T
        yield weights["policy.trunk.project.bias"]
    for layer in range(2):
        encoder = "policy.trunk.encoder."
        yield from _conv(weights, f"{encoder}convs.{layer}.", f"{encoder}norms.{layer}.")
    yield weights[f"{head}weight"].T
    yield weights[f"{head}bias"]


def _conv(weights: Weights, conv: str, norm: str) -> Iterator[NDArray[np.float32]]:
    yield weights[f"{conv}weight_KDE"]
    yield weights[f"{conv}bias_E"]
    yield weights[f"{norm}weight_D"]
    yield weights[f"{norm}bias_D"]


def _attention(weights: Weights, block: str) -> Iterator[NDArray[np.float32]]:
    for name in (
        *("norm_1.weight", "norm_1.bias", "attention.weight_DE", "scale_1"),
        *("norm_2.weight", "norm_2.bias", "feed_forward.weight_1_DE", "feed_forward.bias_1_E"),
        *("feed_forward.weight_2_DE", "feed_forward.bias_2_E", "scale_2"),
    ):
        yield weights[block + name]
