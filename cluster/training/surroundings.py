"""What a rank needs from whoever started it."""

from functools import partial
from pathlib import Path

from cluster.runs.events import log_event
from cluster.runs.folder import refuse_without_lease
from cluster.runs.storage import Uploads, open_storage
from skiprec.config.run import RunConfig
from skiprec.training.state import TrainState


class Surroundings:
    """The surroundings of a rank that is a process by itself, without Ray.

    Every rank calls each method equally often. Rank 0 also copies each checkpoint to the run's
    storage, beside the training.

    Args:
        token: of the lease that this start holds on the run; None where nobody holds one.
    """

    node = "local"
    """The machine of this rank."""

    def __init__(self, config: RunConfig, token: str | None = None, rank: int = 0) -> None:
        self.config, self.token = config, token
        self.uploads: Uploads | None = None
        storage = open_storage(config.cluster, config.name) if rank == 0 else None
        if storage is not None and token is not None:
            self.uploads = Uploads(storage, config.folder, token, partial(log_event, config, rank))

    def beat(self, step: int) -> None:
        """This rank is alive, and in this step."""

    def refuse_if_replaced(self) -> None:
        """Before anything is published: raises RuntimeError if another start owns the run now."""
        if self.token is not None:
            refuse_without_lease(self.config, self.token)

    def checkpoint_is_sealed(self, state: TrainState, checkpoint: Path) -> None:
        """After each checkpoint."""
        if self.uploads is not None:
            self.uploads.start()

    def is_uploading(self) -> bool:
        """Whether a checkpoint is still being copied; no checkpoint may be removed meanwhile."""
        return self.uploads is not None and self.uploads.is_busy()

    def departing_nodes(self) -> frozenset[str]:
        """The machines of the run that are about to be taken away."""
        return frozenset()
