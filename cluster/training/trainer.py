"""Ray Train's trainer, without those of its helpers that a run has no use for.

Each helper is a process of its own that imports Ray's libraries while the workers start.
"""

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from cluster.machine.session import is_own_ray

# Hands out parts of Ray Datasets. A rank reads its shards itself (skiprec.data).
DATASETS = "DatasetsCallback"
# Frees the CPUs of a run whose controller was killed. A local Ray ends with its driver, so nothing
# is left to free; and without a dashboard this helper hangs, and every run waits 12 s for it.
CLEANER = "PlacementGroupCleanerCallback"


class NoMoreMachines(FixedScalingPolicy):
    """The scaling policy of a run on a local Ray, which nobody can ask for another machine."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Starts no coordinator of requests."""

    def _maybe_send_resource_request(self) -> None:
        """Sends no request for machines."""


class Trainer(TorchTrainer):
    """Starts ranks on Ray Train's workers and restarts them."""

    def _create_default_callbacks(self) -> list[Any]:
        unused = {DATASETS, CLEANER} if is_own_ray() else {DATASETS}
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc] # V2 has it
        kept = [callback for callback in callbacks if type(callback).__name__ not in unused]
        if len(kept) != len(callbacks) - len(unused):
            raise RuntimeError(f"this Ray Train lacks {' or '.join(sorted(unused))}")
        return kept

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        if is_own_ray() and type(settings["scaling_policy"]) is FixedScalingPolicy:
            settings["scaling_policy"] = NoMoreMachines(scaling_config=self.scaling_config)  # type: ignore[arg-type]
        return super()._initialize_and_run_controller(**settings)  # type: ignore[misc] # V2 has it
