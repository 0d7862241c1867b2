"""Small real runs for tests: data, configurations, training in this process, and their files."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file

from cluster.runs.events import controller_events, rank_events
from cluster.training.rank import run_rank
from cluster.training.surroundings import Surroundings
from skiprec.checkpoints.files import best_good, newest_good
from skiprec.config.files import load_config
from skiprec.config.run import RunConfig
from skiprec.data.ingest import build_dataset, load_recipe
from skiprec.data.shards import ShardSet
from skiprec.observability.sinks import JsonlSink
from skiprec.training.collectives import Collectives, SingleProcess
from skiprec.training.state import TrainState
from tests.testkit.networks import POLICY_OPTIONS, execution_of

REPOSITORY = Path(__file__).resolve().parents[2]
SMOKE = REPOSITORY / "jobs/configs/smoke.toml"
SMOKE_RECIPE = REPOSITORY / "datasets/recipes/synthetic_smoke.toml"


def build_smoke_data(folder: Path) -> Path:
    """Builds the synthetic data of the smoke configuration in `folder`/data; returns its path."""
    path = folder / "data"
    build_dataset(load_recipe(SMOKE_RECIPE), [], path, progress=lambda _: None)
    return path


TIMED_RECIPE = """name = "timed-smoke"
window = 20
times = true

[source]
kind = "text"
user_column = "user"
item_column = "item"
time_column = "time"
time_unit = "s"

[split]
kind = "by_user"
"""


def build_timed_data(folder: Path) -> Path:
    """As `build_smoke_data`, with a time for each item: an hour after the one before."""
    smoke = build_smoke_data(folder / "without-times")
    lines = ["user,item,time"]
    for split in ("train", "validation", "test"):
        shards = ShardSet.open(smoke, split)
        rows = shards.slice(0, shards.num_rows)
        for user, end, items in zip(rows.user_R, rows.end_R, rows.items_RW, strict=True):
            first = end - len(items)
            lines += [f"{user},{i},{3600 * (first + n)}" for n, i in enumerate(items) if i]
    (folder / "timed.csv").write_text("\n".join(lines) + "\n")
    (folder / "timed.toml").write_text(TIMED_RECIPE)
    path, recipe = folder / "data", load_recipe(folder / "timed.toml")
    build_dataset(recipe, [folder / "timed.csv"], path, progress=lambda _: None)
    return path


def smoke_config(root: Path, data: Path, *overrides: str) -> RunConfig:
    """The smoke configuration with 10 steps and 4 blocks, under `root`."""
    short = ("training.epochs=0.99", "training.log_every_steps=1", "model.num_blocks=4")
    places = (f"root={root}", f"data.path={data}")
    return load_config(SMOKE, (*places, *short, *overrides))


def steps(number: int, rows: int = 64) -> tuple[str, str]:
    """Overrides of the smoke configuration that make it train so many steps of `rows` rows."""
    epochs = (number - 0.5) * rows / 644
    return f"training.epochs={epochs:.4f}", f"training.global_batch_rows={rows}"


def policy_overrides(kind: str) -> tuple[str, ...]:
    """Overrides of the smoke configuration that give it a policy of another kind."""
    dropped = (f"policy.{key}=" for key in ("target_keep_frac", "budget_weight", "width"))
    options = {"kind": kind, **POLICY_OPTIONS.get(kind, {})}
    chosen = (f"policy.{key}={json.dumps(value)}" for key, value in options.items())
    return (*dropped, *chosen, f"training.execution={execution_of(kind)}")


class Crash(Surroundings):
    """Surroundings that end the run right after the checkpoint of a step."""

    def __init__(self, config: RunConfig, step: int) -> None:
        super().__init__(config)
        self.step = step

    def after_checkpoint(self, state: TrainState, checkpoint: Path) -> None:
        if state.step == self.step:
            raise InterruptedError(f"the test ends the run at step {self.step}")


def train_here(
    config: RunConfig,
    comm: Collectives | None = None,
    crash_at: int = 0,
    surroundings: Surroundings | None = None,
) -> TrainState:
    """Runs one rank in this process; returns its last state.

    The run writes no TensorBoard events: drawing their pictures would take most of a short run.

    Args:
        crash_at: the step after whose checkpoint the run ends with InterruptedError. 0: never.
    """
    config.folder.mkdir(parents=True, exist_ok=True)
    surroundings = surroundings or Crash(config, crash_at)
    with mock.patch("cluster.training.rank.open_sink", metrics_only):
        return run_rank(config, comm or SingleProcess(), torch.device("cpu"), surroundings)


def metrics_only(config: RunConfig, resume_step: int) -> JsonlSink:
    """A sink that only writes metrics.jsonl, in place of `cluster.training.rank.open_sink`."""
    return JsonlSink(config.folder / "metrics.jsonl", resume_step)


def metric(config: RunConfig, name: str) -> list[float]:
    """The values of a metric, in the order of the log."""
    lines = (config.folder / "metrics.jsonl").read_text().splitlines()
    return [row[name] for row in map(json.loads, lines) if name in row]


def starts(config: RunConfig, rank: int = 0) -> list[dict[str, Any]]:
    """The events of a rank's starts: message, step, world size, node, time."""
    path = rank_events(config.folder, rank)
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if "training from step" in row["message"]]


def messages(config: RunConfig) -> list[str]:
    """The messages about the run's failures, from the controller's event file."""
    lines = controller_events(config.folder).read_text().splitlines()
    return [json.loads(line)["message"] for line in lines]


def last_weights(config: RunConfig) -> dict[str, torch.Tensor]:
    """The weights of the newest checkpoint."""
    path, skipped = newest_good(config.folder / "checkpoints")
    assert path is not None, skipped
    return load_file(path / "weights.safetensors")


def best_weights(config: RunConfig) -> dict[str, torch.Tensor]:
    """The weights of the best checkpoint."""
    return load_file(best_good(config.folder / "checkpoints") / "weights.safetensors")


def same_weights(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
