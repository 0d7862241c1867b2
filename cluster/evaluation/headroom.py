"""Measures what personal depth could gain on a trained run, in one process and without Ray.

This diagnostic takes minutes and comes before the training of a policy. It is faster on a GPU, or
with more threads (cluster.threads_per_worker).
"""

import json
import time
from pathlib import Path

import torch

from cluster.machine.process import keep_freed_memory
from cluster.runs.data import refuse_other_items
from cluster.runs.folder import provenance
from cluster.runs.publish import publish
from skiprec.checkpoints.network import load_network
from skiprec.config.run import RunConfig
from skiprec.data.batching import evenly_spaced_rows
from skiprec.data.shards import ShardSet
from skiprec.evaluation.headroom.block_sets import (
    entropy_without_each,
    history_features,
    measure_sets,
    state_features,
)
from skiprec.evaluation.headroom.picture import draw_headroom
from skiprec.evaluation.headroom.regression import nested_sets, removal_order, sets_of_exits
from skiprec.evaluation.headroom.report import SetsOfRows, headroom_report
from skiprec.evaluation.headroom.schema import HeadroomConditions, HeadroomReport
from skiprec.evaluation.headroom.text import headroom_markdown, headroom_tables
from skiprec.evaluation.measure.arms import Keep
from skiprec.evaluation.measure.intervals import Floats
from skiprec.evaluation.measure.tiles import read_tiles
from skiprec.models.stack import BlockStack
from skiprec.network import SkipRecNetwork
from skiprec.terminal import MovingLine, moving_line, print_markdown, print_prose

NEST_ROWS = 2048
# Not the training rows: the network has memorised them, and depth seems to matter twice as much.
FIT_SPLIT = "validation"
MAX_FIT_ROWS = 20_000


def measure_run(config: RunConfig, run_folder: Path, command: str) -> Path:
    """Measures the best checkpoint of a run; returns the path of `headroom.json`, written last.

    Args:
        command: the command that made this report, for its conditions.

    Raises:
        ValueError: no checkpoint, data with other items, no rows, or no residual blocks to remove.
    """
    started = time.monotonic()
    torch.set_num_threads(config.cluster.threads_per_worker)
    keep_freed_memory()
    network = load_network(run_folder)[1].to("cuda" if config.cluster.use_gpu else "cpu")
    network.policy = None
    data, split = Path(config.data.path), config.evaluation.split
    held_shards, fit_shards = ShardSet.open(data, split), ShardSet.open(data, FIT_SPLIT)
    refuse_other_items(run_folder, network.num_items, data)
    _check(config, network, held_shards, fit_shards)
    with moving_line(config.name) as line:
        removed, keep_SL = _nest(network, fit_shards, line)
        fit = _measure(network, fit_shards, MAX_FIT_ROWS, keep_SL, line)
        held = _measure(network, held_shards, config.evaluation.max_rows, keep_SL, line)
    conditions = _conditions(config, network, len(fit.user_R), len(held.user_R), command, started)
    return _publish(run_folder, headroom_report(removed, fit, held, conditions))


def print_headroom(run_folder: Path) -> None:
    """Prints the tables and statements of a run's headroom, and the path of the report."""
    report = json.loads((run_folder / "headroom.json").read_text())
    print_markdown("\n".join(headroom_tables(report)))
    for text in report["statements"]:
        print_prose(f"- {text}")
    print(f"report: {run_folder / 'headroom.md'} (beside it headroom.json, headroom.png)")


def _nest(
    network: SkipRecNetwork, shards: ShardSet, line: MovingLine
) -> tuple[tuple[int, ...] | None, Keep]:
    """The order of removal and the sets that it leaves; with exits, None and the exits' sets."""
    exits = network.model_config.exits
    if exits is not None:
        return None, sets_of_exits(exits)
    removed = _removal_order(network, shards, line)
    return removed, nested_sets(removed)


def _removal_order(network: SkipRecNetwork, shards: ShardSet, line: MovingLine) -> tuple[int, ...]:
    tiles = read_tiles(shards, evenly_spaced_rows(shards.num_rows, NEST_ROWS))[1]

    def costs_without(kept: tuple[int, ...]) -> Floats:
        removed = network.num_blocks - len(kept)
        text = f"headroom: which of {len(kept)} blocks is missed least"
        line.show(text, removed, network.num_blocks)
        return entropy_without_each(network, tiles, kept)

    return removal_order(network.num_blocks, costs_without)


def _measure(
    network: SkipRecNetwork,
    shards: ShardSet,
    max_rows: int | None,
    keep_SL: Keep,
    line: MovingLine,
) -> SetsOfRows:
    row_R = evenly_spaced_rows(shards.num_rows, max_rows)
    line.show(f"headroom: the nest on {len(row_R)} {shards.split} rows")
    rows, tiles = read_tiles(shards, row_R)
    entropy_RS, rank_RS = measure_sets(network, tiles, keep_SL)
    features = history_features if network.exits is None else state_features
    return SetsOfRows(keep_SL.sum(1), features(network, tiles), entropy_RS, rank_RS, rows.user_R)


def _check(config: RunConfig, network: SkipRecNetwork, held: ShardSet, fit: ShardSet) -> None:
    if not isinstance(network.stack, BlockStack):
        raise ValueError(
            f"model.backbone={config.model.backbone!r} has no residual blocks, so no depth to "
            "choose; name the run of a backbone"
        )
    if network.num_blocks < 2:
        raise ValueError(
            "a network of one block has no sets of blocks to compare; name a deeper one"
        )
    if held.split == fit.split:
        raise ValueError(
            f"evaluation.split={held.split!r} is the split that the predictor learns "
            "from; set another"
        )
    for shards in (held, fit):
        if not shards.num_rows:
            raise ValueError(
                f"split {shards.split!r} of {config.data.path} has no rows; build the data with "
                "more users"
            )


def _is_trained_to_skip(config: RunConfig) -> bool:
    model = config.model
    return config.policy.skips or model.stochastic_depth is not None or model.exits is not None


def _conditions(
    config: RunConfig,
    network: SkipRecNetwork,
    fit_rows: int,
    held_rows: int,
    command: str,
    started: float,
) -> HeadroomConditions:
    made_by = provenance(config)
    return {
        "name": config.name,
        "command": command,
        "backbone": config.model.backbone,
        "num_blocks": network.num_blocks,
        "width": config.model.width,
        "policy": config.policy.kind,
        "trained_to_skip": _is_trained_to_skip(config),
        "reads_after": None if config.model.exits is None else config.model.exits[0],
        "data": config.data.path,
        "split": config.evaluation.split,
        "rows": held_rows,
        "fit_split": FIT_SPLIT,
        "fit_rows": fit_rows,
        "nest_rows": NEST_ROWS,
        "device": str(network.device),
        "threads": torch.get_num_threads(),
        "commit": made_by["commit"],
        "config_hash": made_by["config_hash"],
        "versions": made_by["versions"],
        "written": made_by["started"],
        "seconds": round(time.monotonic() - started, 1),
    }


def _publish(run_folder: Path, report: HeadroomReport) -> Path:
    def write(draft: Path) -> None:
        draw_headroom(report).savefig(draft / "headroom.png")
        (draft / "headroom.md").write_text(headroom_markdown(report))

    return publish(run_folder, "headroom.json", json.dumps(report, indent=1), write)
