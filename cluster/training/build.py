"""Builds the network and the engine of a run."""

import torch

from cluster.training.deepspeed_config import deepspeed_config
from cluster.training.deepspeed_engine import DeepSpeedEngine, prepare_process
from skiprec.config.run import RunConfig
from skiprec.data.batching import TrainingReader
from skiprec.network import SkipRecNetwork
from skiprec.training.engine import Engine, TorchEngine
from skiprec.training.objective import Objective
from skiprec.training.optim import build_optimizer


def build_network(config: RunConfig, num_items: int) -> SkipRecNetwork:
    """The network of `config` with its initial random weights."""
    network = SkipRecNetwork(
        config.model, config.policy, num_items, config.training.activation_checkpointing
    )
    network.reset_parameters(config.training.seed)
    return network


def build_engine(
    config: RunConfig, network: SkipRecNetwork, reader: TrainingReader, device: torch.device
) -> Engine:
    """The engine that `training.engine` selects, plain PyTorch or DeepSpeed."""
    objective = Objective(network, config)
    optimizer = build_optimizer(network, config.training)
    if config.training.engine == "torch":
        return TorchEngine(objective, optimizer, config.training, device)
    prepare_process(config.cluster.use_gpu)
    settings = deepspeed_config(config.training, config.cluster, reader.passes, reader.world_size)
    return DeepSpeedEngine(objective, optimizer, settings, config.training, device)
