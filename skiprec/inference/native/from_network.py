"""From a network of PyTorch to a model of the native library."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skiprec.inference.native.library import Answer, Lists, NativeModel, Shape
from skiprec.inference.native.pack import BACKBONES, CONVOLUTIONS, RULES, pack_weights
from skiprec.models.nextitnet import dilation_cycle
from skiprec.models.sasrec import num_heads
from skiprec.network import SkipRecNetwork
from skiprec.policy.base import LinearRule
from skiprec.policy.encoders import ConvEncoder
from skiprec.policy.trunk import PolicyTrunk, StateTrunk
from skiprec.types import PADDING

_STATE_FEATURES = ("state", "length")


def why_not_native(network: SkipRecNetwork) -> str | None:
    """What the library does not know of a network, in words; None if it knows all of it."""
    backbone = network.model_config.backbone
    if backbone not in BACKBONES:
        return f"model.backbone={backbone!r} (it knows {', '.join(BACKBONES)})"
    if network.model_config.cosine_temperature is not None:
        return "model.cosine_temperature"
    if network.embedding.table.weight.dtype != torch.float32:
        return f"weights in {network.embedding.table.weight.dtype} (it knows float32)"
    return None


def why_policy_not_native(network: SkipRecNetwork) -> str | None:
    """What the library does not know of a network's policy; None if it can decide itself.

    A policy that learns nothing has no network: its decisions are given to the library.
    """
    trunk = _trunk(network)
    if network.policy is None or trunk is None:
        return None
    if network.policy.linear_rule is None:
        return "a policy that does not decide by a linear head alone"
    if isinstance(trunk, StateTrunk) and not set(trunk.features) <= set(_STATE_FEATURES):
        return f"policy.features={list(trunk.features)} (it knows {' and '.join(_STATE_FEATURES)})"
    if isinstance(trunk, PolicyTrunk) and not isinstance(trunk.encoder, ConvEncoder):
        return "policy.encoder (it knows 'conv')"
    return None


class NativeNetwork:
    """A network in the native library, which answers what `executor.recommend` answers.

    Args:
        network: its weights are copied.
        window: the longest history that is read, in items.
        level: name of the instruction set; None: the best that this machine has.

    Raises:
        ValueError: the library does not know the network or its policy; the message says what.
        FileNotFoundError: there is no library.
    """

    def __init__(
        self,
        network: SkipRecNetwork,
        window: int,
        level: str | None = None,
        library: Path | None = None,
    ):
        unknown = why_not_native(network) or why_policy_not_native(network)
        if unknown is not None:
            raise ValueError(f"the native executor does not know {unknown}; use PyTorch")
        self.rule = rule_of(network)
        shape = shape_of(network, window)
        packed_N = pack_weights(weights_of(network), shape)
        self.model = NativeModel(shape, lists_of(network), packed_N, level, library)

    def recommend(
        self,
        items_BT: Tensor,
        k: int,
        exclude_seen: bool,
        keep_BL: NDArray[np.bool_] | None = None,
        threads: int = 1,
    ) -> Answer:
        """The best items of left-padded histories; the policy decides unless `keep_BL` is given."""
        item_N, end_B = flat_histories(items_BT)
        setting = 0.0 if self.rule is None else self.rule.setting
        return self.model.recommend(
            item_N, end_B, k, exclude_seen, keep_BL, setting, threads=threads
        )


def flat_histories(items_BT: Tensor) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Left-padded histories as `(item_N, end_B)`: all items, and where each history ends."""
    items = items_BT.numpy()
    is_item = items != PADDING
    return items[is_item].astype(np.int32), np.cumsum(is_item.sum(1), dtype=np.int64)


def weights_of(network: SkipRecNetwork) -> dict[str, NDArray[np.float32]]:
    """The weights by their names, as the executors read them.

    A policy on an early state reads the state, then the length; what it was not trained to read has
    weights of 0.
    """
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    trunk = _trunk(network)
    if isinstance(trunk, StateTrunk):
        width = network.model_config.width
        place = {"state": np.arange(width), "length": np.array([width])}
        own_PF = weights["policy.trunk.project.weight"]
        all_PF = np.zeros((len(own_PF), width + 1), np.float32)
        all_PF[:, np.concatenate([place[feature] for feature in trunk.features])] = own_PF
        weights["policy.trunk.project.weight"] = all_PF
    return weights


def shape_of(network: SkipRecNetwork, window: int) -> Shape:
    """The shape of a network that the library knows."""
    config, rule, weights = network.model_config, rule_of(network), network.state_dict()
    kind = BACKBONES[config.backbone]
    is_conv = kind == CONVOLUTIONS
    trunk = _trunk(network)
    policy_width = 0
    if rule is not None:
        is_state = isinstance(trunk, StateTrunk)
        bias = "project.bias" if is_state else "encoder.convs.0.bias_E"
        policy_width = weights[f"policy.trunk.{bias}"].numel()
    return Shape(
        backbone=kind,
        items=network.num_items,
        width=config.width,
        blocks=network.num_blocks,
        window=window,
        heads=0 if is_conv else num_heads(config),
        positions_table=0 if is_conv else len(weights["entry.table_PD"]),
        norms=len(exit_depths_of(network)),
        rule=0 if rule is None else RULES[rule.kind],
        policy_width=policy_width,
        policy_has_table=rule is not None and "policy.trunk.embedding.table.weight" in weights,
        sets=0 if rule is None else len(rule.set_sizes),
        reads_after=0 if rule is None else network.policy.reads_after or 0,  # type: ignore[union-attr]
        readout_width=weights["exits.up_MDH"].shape[2] if config.exit_readouts else 0,
    )


def lists_of(network: SkipRecNetwork) -> Lists:
    """The lists that belong to the shape of a network."""
    rule = rule_of(network)
    sets = () if rule is None else rule.set_sizes
    return Lists(dilations_of(network), sets, exit_depths_of(network))


def exit_depths_of(network: SkipRecNetwork) -> tuple[int, ...]:
    """The blocks before each norm that precedes the scores; empty without a norm."""
    config = network.model_config
    return config.exits or ((network.num_blocks,) if config.head_has_norm else ())


def dilations_of(network: SkipRecNetwork) -> tuple[int, ...]:
    """The dilation of the first convolution of each block; empty for attention."""
    if BACKBONES[network.model_config.backbone] != CONVOLUTIONS:
        return ()
    cycle = dilation_cycle(network.model_config)
    return tuple(cycle[index % len(cycle)] for index in range(network.num_blocks))


def rule_of(network: SkipRecNetwork) -> LinearRule | None:
    """The rule by which a learned policy decides; None without one."""
    is_learned = network.policy is not None and _trunk(network) is not None
    return network.policy.linear_rule if is_learned else None  # type: ignore[union-attr]


def _trunk(network: SkipRecNetwork) -> PolicyTrunk | StateTrunk | None:
    """The network of a learned policy."""
    return getattr(network.policy, "trunk", None)
