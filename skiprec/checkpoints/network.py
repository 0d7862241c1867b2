"""The network of a run, read from its best checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from skiprec.checkpoints.files import WEIGHTS, best_good
from skiprec.config.model import ModelConfig
from skiprec.config.run import RunConfig
from skiprec.models.growth import Growth, grown
from skiprec.models.nextitnet import dilation_cycle
from skiprec.models.registry import block_cycle
from skiprec.models.sasrec import num_heads
from skiprec.network import SkipRecNetwork

POLICY = "policy."


def load_network(run_folder: Path) -> tuple[RunConfig, SkipRecNetwork]:
    """The configuration of a run and its best network, verified, in evaluation mode."""
    config_file = run_folder / "config.json"
    if not config_file.exists():
        raise ValueError(
            f"{run_folder} is not a run folder (no config.json); expected <root>/<name> of a "
            "trained run"
        )
    config = RunConfig.model_validate(json.loads(config_file.read_text()))
    path = best_good(run_folder / "checkpoints")
    weights = load_file(path / WEIGHTS)
    num_items = len(weights["head.weight_VD"])
    network = SkipRecNetwork(config.model, config.policy, num_items)
    differing = _differing(weights, network.state_dict())
    if differing:
        raise ValueError(
            f"{path} does not hold the network that {config_file} describes; {len(differing)} "
            f"weights differ, first {differing[0]}. It is of another version or was edited: train "
            "the run again"
        )
    network.load_state_dict(weights)
    return config, network.eval()


def start_from_backbone(
    network: SkipRecNetwork, run_folder: Path, growth: Growth | None = None
) -> None:
    """Two-stage: copies every weight of a run's best backbone, and its items into the policy's.

    Args:
        growth: lets the run have fewer blocks, which are copied (`skiprec.models.growth`).

    Raises:
        ValueError: the run's backbone is another one, or of another shape, or has other items.
    """
    config, trained = load_network(run_folder)
    _same_function(config, network.model_config)
    own = network.state_dict()
    weights = {n: w for n, w in trained.state_dict().items() if not n.startswith(POLICY)}
    if growth is not None:
        cycle = block_cycle(config.model)
        weights = grown(weights, trained.num_blocks, network.num_blocks, cycle, growth)
    differing = _differing(weights, {n: w for n, w in own.items() if not n.startswith(POLICY)})
    if differing:
        raise ValueError(
            f"init_from={config.name!r}: expected {network.num_blocks} blocks of width "
            f"{network.model_config.width} for {network.num_items} items, found "
            f"{trained.num_blocks} of width {config.model.width} for {trained.num_items}; "
            f"{len(differing)} weights differ, first {differing[0]}. Pretrain a backbone of this "
            "shape on this data, or name another run"
        )
    network.load_state_dict(weights, strict=False)
    table = own.get("policy.trunk.embedding.table.weight")
    if table is not None and table.shape == weights["embedding.table.weight"].shape:
        network.load_state_dict(
            {"policy.trunk.embedding.table.weight": weights["embedding.table.weight"]},
            strict=False,
        )


SAME_FUNCTION: dict[str, Callable[[ModelConfig], object]] = {
    "backbone": lambda model: model.backbone,
    "dilations": dilation_cycle,
    "num_heads": num_heads,
}


def _same_function(config: RunConfig, wanted: ModelConfig) -> None:
    """Refuses what shapes would not tell: other blocks, dilations or heads with like weights."""
    for key, meaning in SAME_FUNCTION.items():
        found, expected = meaning(config.model), meaning(wanted)
        if found != expected:
            raise ValueError(
                f"init_from={config.name!r} is another architecture: expected model.{key}="
                f"{expected!r}, found {found!r}; name another run, or change model.{key}"
            )


def _differing(there: dict[str, Tensor], here: dict[str, Tensor]) -> list[str]:
    """Each weight that has not the same shape in both, in words."""

    def shape(weights: dict[str, Tensor], name: str) -> str:
        return str(tuple(weights[name].shape)) if name in weights else "absent"

    return [
        f"{name}: {shape(there, name)} there, {shape(here, name)} here"
        for name in sorted(there.keys() | here.keys())
        if shape(there, name) != shape(here, name)
    ]
