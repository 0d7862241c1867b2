"""What a rank calls in the process that started it: lease, uploads, watchdog, Ray."""

from functools import partial
from pathlib import Path

from cluster.runs.events import log_event
from cluster.runs.folder import refuse_without_lease
from cluster.runs.storage import Uploads, open_storage
from skiprec.config.run import RunConfig
from skiprec.training.state import TrainState


class Surroundings:
    """The surroundings of a rank without Ray. `worker.RayTrainSurroundings` are those on Ray Train.

    Every rank calls each method equally often. Rank 0 also copies each checkpoint to the run's
    storage, while training continues.

    Args:
        lease_token: the token of the lease that this start holds on the run. None: there is no
            lease, as in tests; nothing is then checked and nothing is uploaded.
    """

    node = "local"
    """The identifier of this rank's machine, for the event file."""

    def __init__(self, config: RunConfig, lease_token: str | None = None, rank: int = 0) -> None:
        self.config, self.lease_token = config, lease_token
        self.uploads: Uploads | None = None
        storage = open_storage(config.cluster, config.name) if rank == 0 else None
        if storage is not None and lease_token is not None:
            log = partial(log_event, config, rank)
            self.uploads = Uploads(storage, config.folder, lease_token, log)

    def beat(self, step: int) -> None:
        """Called while this rank makes progress in a step; a watchdog may count from here."""

    def refuse_if_replaced(self) -> None:
        """Called before anything is published.

        Raises:
            RuntimeError: another start owns the run now.
        """
        if self.lease_token is not None:
            refuse_without_lease(self.config, self.lease_token)

    def after_checkpoint(self, state: TrainState, checkpoint: Path) -> None:
        """Called after each checkpoint is sealed; starts its upload."""
        if self.uploads is not None:
            self.uploads.start()

    def is_uploading(self) -> bool:
        """Whether a checkpoint is still being copied; until then no checkpoint may be removed."""
        return self.uploads is not None and self.uploads.is_busy()

    def departing_nodes(self) -> frozenset[str]:
        """Identifiers of the run's machines that will be taken away soon."""
        return frozenset()
