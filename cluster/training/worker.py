"""The function that Ray Train calls on every worker."""

import os
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from cluster.machine.process import keep_freed_memory
from cluster.training.failures import Watchdog, step_failed
from cluster.training.rank import run_rank
from cluster.training.surroundings import Surroundings
from skiprec.config.run import RunConfig
from skiprec.training.collectives import ProcessGroup
from skiprec.training.state import TrainState


class RayTrainSurroundings(Surroundings):
    """A worker of Ray Train, with a watchdog."""

    def __init__(self, config: RunConfig, token: str, rank: int, watchdog: Watchdog) -> None:
        super().__init__(config, token, rank)
        self.watchdog = watchdog
        self.node = ray.get_runtime_context().get_node_id()

    def beat(self, step: int) -> None:
        """Starts the watchdog's time anew."""
        self.watchdog.beat(step)

    def checkpoint_is_sealed(self, state: TrainState, checkpoint: Path) -> None:
        """Also tells Ray Train, which is a barrier of all ranks.

        The checkpoint is ours; Ray keeps the metrics and a pointer to it.
        """
        super().checkpoint_is_sealed(state, checkpoint)
        metrics = {"step": state.step, "mrr@20": state.best_metric, "checkpoint": str(checkpoint)}
        ray.train.report(metrics)

    def departing_nodes(self) -> frozenset[str]:
        """The nodes that Ray Train knows will be preempted."""
        preemption = ray.train.get_preemption_info()
        return frozenset(preemption.preempted_node_ids if preemption is not None else ())


def ray_train_worker(settings: dict[str, Any]) -> None:
    """Trains one rank.

    Args:
        settings: `config`, `working_folder` and `lease_token`, from `launch.launch_training`.
    """
    config = RunConfig.model_validate(settings["config"])
    torch.set_num_threads(config.cluster.threads_per_worker)
    keep_freed_memory()
    comm = ProcessGroup()
    watchdog = None
    try:
        # Ray Train changes the folder of its workers; the paths of a run are relative to the job's.
        os.chdir(settings["working_folder"])
        watchdog = Watchdog(config.folder, comm.rank, config.cluster.step_timeout_s)
        token = settings["lease_token"]
        surroundings = RayTrainSurroundings(config, token, comm.rank, watchdog)
        run_rank(config, comm, ray.train.torch.get_device(), surroundings)
    except Exception as error:
        raise step_failed(0 if watchdog is None else watchdog.step, error) from error
    finally:
        if watchdog is not None:
            watchdog.stop()
