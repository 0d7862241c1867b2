"""The arithmetic of memory agrees with DeepSpeed's documents and with counted weights."""

import pytest
import torch

from cluster.training.footprint import count_weights, footprint, touched_rows
from skiprec.config.run import RunConfig
from skiprec.network import SkipRecNetwork
from tests.testkit.networks import NUM_ITEMS, run_config

SPARSE = {
    "loss__kind": "sampled",
    "loss__num_negatives": 4,
    "training__item_optimizer": "sparse_adam",
}


def placed(zero_stage: int, **changes: object) -> RunConfig:
    more = {"training__engine": "deepspeed", "cluster__num_workers": 4}
    return run_config(**more, cluster__zero_stage=zero_stage, **changes)


def test_weights_are_counted_without_making_them() -> None:
    config = placed(0)
    network = SkipRecNetwork(config.model, config.policy, NUM_ITEMS)
    total = sum(p.numel() for p in network.parameters())
    assert count_weights(config, NUM_ITEMS).dense == total
    sparse = count_weights(placed(0, **SPARSE), NUM_ITEMS)
    assert sparse.sparse == sum(table.numel() for _, table in network.item_tables())
    assert sparse.dense + sparse.sparse == total
    large = count_weights(placed(0), 10**9)
    assert large.dense > 10**10, "more than any machine of ours holds"


@pytest.mark.parametrize(
    ("stage", "precision", "held"),
    [  # bytes per weight at 4 workers, by DeepSpeed's documentation
        (0, "fp32", 4 + 8),
        (0, "bf16", 2 + 12),
        (1, "fp32", 4 + 12 / 4),
        (2, "bf16", 2 + 12 / 4),
        (3, "bf16", (2 + 2 + 12) / 4),
    ],
)
def test_held_bytes_by_stage(stage: int, precision: str, held: float) -> None:
    config = placed(stage, training__precision=precision)
    weights = count_weights(config, NUM_ITEMS)
    bytes_needed = footprint(config, weights, 4)
    assert sum(bytes_needed.held.values()) == pytest.approx(held * weights.dense)
    assert bytes_needed.peak > sum(bytes_needed.held.values())


def test_more_workers_hold_less_each_but_not_at_stage_0_and_never_less_tables() -> None:
    for stage in range(4):
        config = placed(stage, **SPARSE)
        weights = count_weights(config, NUM_ITEMS)
        few, many = (footprint(config, weights, n) for n in (2, 64))
        assert (many.peak < few.peak) == (stage > 0)
        assert many.held["sparse tables"] == few.held["sparse tables"]
        assert many.sent >= few.sent


def test_offload_moves_the_optimizer_away_and_parameters_too_when_asked() -> None:
    weights = count_weights(placed(3), NUM_ITEMS)
    kept = [
        set(footprint(placed(3, cluster__offload=offload), weights, 4).held)
        for offload in ("none", "optimizer", "parameters")
    ]
    assert kept == [
        {"masters", "moments", "weights", "gradients"},
        {"weights", "gradients"},
        {"gradients"},
    ]


FROZEN = {"policy": "gumbel", "init_from": "b", "training__freeze_backbone": True}


def test_a_frozen_backbone_has_weights_and_nothing_else() -> None:
    config = placed(0, **FROZEN)
    network = SkipRecNetwork(config.model, config.policy, NUM_ITEMS)
    assert network.policy is not None
    policy = sum(p.numel() for p in network.policy.parameters())
    total = sum(p.numel() for p in network.parameters())
    frozen = count_weights(config, NUM_ITEMS)
    assert (frozen.dense, frozen.frozen) == (policy, total - policy)
    for stage, held in ((0, 4 * total + 8 * policy), (3, (4 * total + 16 * policy) / 4)):
        bytes_needed = footprint(placed(stage, **FROZEN), frozen, 4)
        assert sum(bytes_needed.held.values()) == held
    assert footprint(config, frozen, 4).sent == 2 * 3 / 4 * policy * 4


def test_each_set_of_negatives_is_read() -> None:
    config, sets = placed(0, **SPARSE), placed(0, **SPARSE, loss__negative_sets=3)
    weights = count_weights(config, NUM_ITEMS)
    one, three = (touched_rows(c, weights, 1, positions=7) for c in (config, sets))
    assert three - one == 2 * 2 * 4, "two more sets of four, of weights and of biases"


def test_touched_rows_are_those_of_each_table() -> None:
    config = placed(0, **SPARSE, training__global_batch_rows=10)
    weights = count_weights(config, NUM_ITEMS)
    own = [name for name in weights.tables if not name.startswith("head.")]
    assert len(weights.tables) == len(own) + 2
    read = 3 * 7  # the largest part of 10 rows on 4 workers, 7 positions
    expected = len(own) * read + 2 * (read + 4)
    assert touched_rows(config, weights, 4, positions=7) == expected
    assert touched_rows(placed(0), count_weights(placed(0), NUM_ITEMS), 4, positions=7) == 0


def test_one_worker_sends_nothing() -> None:
    config = placed(3)
    assert footprint(config, count_weights(config, NUM_ITEMS), 1, touched=100).sent == 0


def test_counting_does_not_touch_the_default_device() -> None:
    count_weights(placed(0), NUM_ITEMS)
    assert torch.ones(1).device.type == "cpu"
