"""The state of a run. It is small, equal on every rank, and complete but for the weights."""

from skiprec.frozen import Frozen


class TrainState(Frozen):
    """The state after `step` steps.

    The next rows are a function of `seed`, `step` and the dataset with `manifest_hash`.

    Args:
        samples: number of rows that were trained on, for the log.
        items_hash: hash of the item that each id stands for. None in states of old versions.
    """

    step: int = 0
    samples: int = 0
    seed: int = 0
    manifest_hash: str = ""
    items_hash: str | None = None
    best_step: int | None = None
    best_metric: float | None = None
    validations_without_gain: int = 0
    stopped_early: bool = False

    def advanced(self, rows: int) -> "TrainState":
        """The state after one more step over `rows` rows."""
        return self.model_copy(update={"step": self.step + 1, "samples": self.samples + rows})

    def validated(self, metric: float, patience: int | None) -> "TrainState":
        """The state after a validation; it stops early after `patience` without a better metric."""
        if self.best_metric is None or metric > self.best_metric:
            return self.model_copy(
                update={
                    "best_step": self.step,
                    "best_metric": metric,
                    "validations_without_gain": 0,
                }
            )
        without_gain = self.validations_without_gain + 1
        stop = patience is not None and without_gain >= patience
        return self.model_copy(
            update={"validations_without_gain": without_gain, "stopped_early": stop}
        )
