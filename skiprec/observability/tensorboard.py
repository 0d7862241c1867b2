"""The TensorBoard sink: scalars, keep rates of blocks, pictures of decisions, hyperparameters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from skiprec.observability.curves import Curve
from skiprec.observability.pictures import figure_to_array, keep_heat_map, kept_blocks_histogram
from skiprec.observability.sinks import Decisions


class TensorBoardSink:
    """Writes event files under `folder`. Events after `resume_step` are marked as purged.

    Args:
        settings: the part of the configuration that is shown as hyperparameters, beside the
            numbers of the last validation.
    """

    def __init__(self, folder: Path, resume_step: int, settings: dict[str, Any]):
        self.settings = settings
        self.last_validation: dict[str, float] = {}
        self.writer = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes one scalar for each name. TensorBoard groups names by the part before "/"."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
            if name.startswith("validation/"):
                self.last_validation[f"hparam/{name}"] = value

    def decisions(self, step: int, keep_RL: Decisions) -> None:
        """Writes a heat map of blocks by users and a histogram of the number of kept blocks."""
        for name, figure in (
            ("policy/blocks_by_users", keep_heat_map(keep_RL)),
            ("policy/kept_blocks", kept_blocks_histogram(keep_RL)),
        ):
            self.writer.add_image(name, figure_to_array(figure), step, dataformats="HWC")

    def close(self) -> None:
        """Adds the run as a row of the HPARAMS table and closes the event file."""
        flat = {key: value for key, value in _flatten(self.settings).items() if value is not None}
        self.writer.add_hparams(flat, self.last_validation, run_name=".")
        self.writer.close()


def write_evaluation(folder: Path, report: Mapping[str, Any], figures: dict[str, Figure]) -> None:
    """Writes the numbers of a report as `evaluation_<row>/<metric>` and its pictures as
    `evaluation/<file>`."""
    writer = SummaryWriter(str(folder))
    for row in report["rows"]:
        for metric, value in row.items():
            if isinstance(value, float):
                writer.add_scalar(f"evaluation_{row['name']}/{metric}", value, 0)
    for name, figure in figures.items():
        writer.add_image(f"evaluation/{name}", figure_to_array(figure), 0, dataformats="HWC")
    writer.close()


def write_convergence(folder: Path, curves: list[Curve]) -> None:
    """Writes each curve as one run. Steps are hundredths of epochs, and seconds."""
    for curve in curves:
        writer = SummaryWriter(str(folder / curve.label.replace("/", "-").replace(" ", "_")))
        for metric in ("loss", "mrr"):
            for epochs, hours, value in getattr(curve, metric):
                writer.add_scalar(f"{metric}_by_hundredth_epoch", value, round(100 * epochs))
                writer.add_scalar(f"{metric}_by_second", value, round(3600 * hours))
        writer.close()


def write_trials(folder: Path, trials: Sequence[Mapping[str, Any]]) -> None:
    """Writes the trials of a sweep as rows of the HPARAMS table; replaces the earlier rows."""
    for trial in trials:
        place = folder / trial["trial"]
        for old in place.glob("events.*"):
            old.unlink()
        writer = SummaryWriter(str(place))
        settings = {
            "policy.kind": trial["kind"],
            **trial["settings"],
            "complete": trial["complete"],
        }
        numbers = ("mrr@20", "flops_speedup", "keep_frac", "samples")
        writer.add_hparams(
            settings, {f"hparam/{name}": trial[name] for name in numbers}, run_name="."
        )
        writer.close()


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            is_plain = isinstance(value, bool | int | float | str | None)
            flat[f"{prefix}{key}"] = value if is_plain else str(value)
    return flat
