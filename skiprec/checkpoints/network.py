"""Reading the network of a run from its best checkpoint."""

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from skiprec.checkpoints.catalogue import ItemMatch, Neighbours, moved
from skiprec.checkpoints.files import WEIGHTS, best_good
from skiprec.config.files import saved_config
from skiprec.config.model import ModelConfig
from skiprec.config.run import RunConfig
from skiprec.models.growth import Growth, grown
from skiprec.models.nextitnet import dilation_cycle
from skiprec.models.registry import block_cycle
from skiprec.models.sasrec import num_heads
from skiprec.network import SkipRecNetwork

POLICY = "policy."


def load_network(run_folder: Path) -> tuple[RunConfig, SkipRecNetwork]:
    """The configuration of a run and its best network, in evaluation mode.

    Raises:
        ValueError: there is no run, no finished checkpoint, or no network of this configuration.
    """
    config_file = run_folder / "config.json"
    if not config_file.exists():
        raise ValueError(
            f"{run_folder} is not a run folder (no config.json); expected <root>/<name> of a "
            "trained run"
        )
    config = saved_config(config_file)
    path = best_good(run_folder / "checkpoints")
    weights = load_file(path / WEIGHTS)
    num_items = len(weights["embedding.table.weight"]) - 1
    network = SkipRecNetwork(config.model, config.policy, num_items)
    differing = _differing(weights, network.state_dict())
    if differing:
        raise ValueError(
            f"{path} does not hold the network that {config_file} describes; {len(differing)} "
            f"weights differ, first {differing[0]}. It comes from another version or was edited: "
            "train the run again"
        )
    network.load_state_dict(weights)
    return config, network.eval()


def start_from_backbone(
    network: SkipRecNetwork,
    run_folder: Path,
    growth: Growth | None = None,
    items: tuple[ItemMatch, Neighbours | None] | None = None,
) -> None:
    """Copies the weights of a run's best backbone into `network` (two-stage training).

    If the policy has its own item table of the same shape, the item vectors are copied there, too.

    Args:
        growth: the run may have fewer blocks, which are copied several times in this order
            (`skiprec.models.growth`). None: the number of blocks must be the same.
        items: how the network's items relate to those of the run (`skiprec.checkpoints.catalogue`).
            None: they are the same.

    Raises:
        ValueError: the run has another backbone, another shape or another number of items.
    """
    config, trained = load_network(run_folder)
    _same_function(config, network.model_config)
    own = network.state_dict()
    weights = _without_policy(trained.state_dict())
    if items is not None:
        weights = moved(weights, own, *items)
    if growth is not None:
        cycle = block_cycle(config.model)
        weights = grown(weights, trained.num_blocks, network.num_blocks, cycle, growth)
    differing = _differing(weights, _without_policy(own))
    if differing:
        raise ValueError(
            f"init_from={config.name!r}: expected {network.num_blocks} blocks of width "
            f"{network.model_config.width} for {network.num_items} items, found "
            f"{trained.num_blocks} of width {config.model.width} for {trained.num_items}; "
            f"{len(differing)} weights differ, first {differing[0]}. Pretrain a backbone of this "
            "shape on this data, or name another run; init_items takes one of another catalogue"
        )
    network.load_state_dict(weights, strict=False)
    table = own.get("policy.trunk.embedding.table.weight")
    if table is not None and table.shape == weights["embedding.table.weight"].shape:
        network.load_state_dict(
            {"policy.trunk.embedding.table.weight": weights["embedding.table.weight"]},
            strict=False,
        )


# The parts of a backbone that its weights' shapes do not determine.
SAME_FUNCTION: dict[str, Callable[[ModelConfig], object]] = {
    "backbone": lambda model: model.backbone,
    "dilations": dilation_cycle,
    "num_heads": num_heads,
    "exits": lambda model: model.exits,
    "cosine_temperature": lambda model: model.cosine_temperature,
    "time": lambda model: model.time or "none",
}


def _same_function(config: RunConfig, wanted: ModelConfig) -> None:
    """Raises ValueError if the backbone differs although its weights may have the same shapes."""
    for key, meaning in SAME_FUNCTION.items():
        actual, expected = meaning(config.model), meaning(wanted)
        if actual != expected:
            raise ValueError(
                f"init_from={config.name!r} is another architecture: expected model.{key}="
                f"{expected!r}, found {actual!r}; name another run, or change model.{key}"
            )


def _without_policy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if not name.startswith(POLICY)}


def _differing(there: dict[str, Tensor], here: dict[str, Tensor]) -> list[str]:
    """A description of each weight whose shapes differ or that exists on one side only."""

    def shape(weights: dict[str, Tensor], name: str) -> str:
        return str(tuple(weights[name].shape)) if name in weights else "absent"

    return [
        f"{name}: {shape(there, name)} there, {shape(here, name)} here"
        for name in sorted(there.keys() | here.keys())
        if shape(there, name) != shape(here, name)
    ]
