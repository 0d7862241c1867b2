"""Where a run is. Small, equal on every rank, and all that resuming needs beside the weights."""

from skiprec.frozen import Frozen


class TrainState(Frozen):
    """After `step` steps.

    Which rows come next is a function of `seed`, `step` and the data of `manifest_hash`; `samples`
    counts the rows seen, for the log. `items_hash`: which item each id means; None where a state is
    of a version that did not say.
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
        """One step of `rows` samples later."""
        return self.model_copy(update={"step": self.step + 1, "samples": self.samples + rows})

    def validated(self, metric: float, patience: int | None) -> "TrainState":
        """With a validation's result; `stopped_early` after `patience` of them without a gain."""
        if self.best_metric is None or metric > self.best_metric:
            return self.model_copy(
                update={
                    "best_step": self.step,
                    "best_metric": metric,
                    "validations_without_gain": 0,
                }
            )
        waited = self.validations_without_gain + 1
        stop = patience is not None and waited >= patience
        return self.model_copy(update={"validations_without_gain": waited, "stopped_early": stop})
