"""The function that Ray Train calls on every worker: it sets the process up and runs a rank."""

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
    """The surroundings of a rank that is a worker of Ray Train, with a watchdog."""

    def __init__(self, config: RunConfig, lease_token: str, rank: int, watchdog: Watchdog) -> None:
        super().__init__(config, lease_token, rank)
        self.watchdog = watchdog
        self.node = ray.get_runtime_context().get_node_id()

    def beat(self, step: int) -> None:
        """Restarts the watchdog's timer."""
        self.watchdog.beat(step)

    def after_checkpoint(self, state: TrainState, checkpoint: Path) -> None:
        """Starts the upload and reports to Ray Train, which is a barrier of all ranks.

        The checkpoint's files are ours; Ray keeps only the metrics, among them the path.
        """
        super().after_checkpoint(state, checkpoint)
        metrics = {"step": state.step, "mrr@20": state.best_metric, "checkpoint": str(checkpoint)}
        ray.train.report(metrics)

    def departing_nodes(self) -> frozenset[str]:
        """Identifiers of the nodes that will be preempted, as announced to Ray Train."""
        preemption = ray.train.get_preemption_info()
        return frozenset(preemption.preempted_node_ids if preemption is not None else ())


def ray_train_worker(settings: dict[str, Any]) -> None:
    """Trains one rank.

    Args:
        settings: `config`, `working_folder` and `lease_token`, as `launch.py` sends them.

    Raises:
        StepFailedError: any error of the rank, with the step in which it was raised.
    """
    config = RunConfig.model_validate(settings["config"])
    torch.set_num_threads(config.cluster.threads_per_worker)
    keep_freed_memory()
    comm = ProcessGroup()
    watchdog = None
    try:
        # Ray Train starts workers in another folder; a run's paths are relative to the job's.
        os.chdir(settings["working_folder"])
        watchdog = Watchdog(config.folder, comm.rank, config.cluster.step_timeout_s)
        lease_token = settings["lease_token"]
        surroundings = RayTrainSurroundings(config, lease_token, comm.rank, watchdog)
        run_rank(config, comm, ray.train.torch.get_device(), surroundings)
    except Exception as error:
        raise step_failed(0 if watchdog is None else watchdog.step, error) from error
    finally:
        if watchdog is not None:
            watchdog.stop()
