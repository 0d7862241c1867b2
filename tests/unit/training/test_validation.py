"""Validation during training: its rows, fill rows, and signs of a collapsed policy."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from skiprec.data.batching import TrainingReader, validation_tiles
from skiprec.data.order import DataOrder
from skiprec.data.shards import Rows
from skiprec.training.collectives import SingleProcess
from skiprec.training.engine import TorchEngine
from skiprec.training.validation import decide_rows, policy_scalars, validate
from skiprec.types import PADDING, Batch, Pass
from tests.testkit.networks import WINDOW, random_batch, run_config
from tests.testkit.steps import make_engine


@dataclass
class MemoryShards:
    """The methods of a `ShardSet` that `batching` calls."""

    num_rows: int
    window: int = WINDOW

    def take(self, row_R: np.ndarray) -> Rows:
        batch, index_R = random_batch(self.num_rows), row_R.astype(np.int32)
        assert batch.times_BW is not None
        items_RW = batch.items_BW.numpy()[row_R].astype(np.int32)
        return Rows(items_RW, index_R, index_R, row_R, batch.times_BW.numpy()[row_R])


def real_rows(tiles: list[tuple[Batch, int]]) -> torch.Tensor:
    return torch.cat([batch.key_B[:count] for batch, count in tiles])


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize(("total", "wanted"), [(50, None), (50, 20), (5, None), (50, 500), (1, 1)])
def test_tiles_of_all_ranks_hold_each_row_once(
    world_size: int, total: int, wanted: int | None
) -> None:
    shards = MemoryShards(total)
    ranks = [validation_tiles(shards, wanted, 8, world_size, rank) for rank in range(world_size)]
    assert len({len(tiles) for tiles in ranks}) == 1, "every rank makes the same number of passes"
    actual = torch.cat([real_rows(tiles) for tiles in ranks]).sort().values
    alone = real_rows(validation_tiles(shards, wanted, 8, 1, 0))
    assert torch.equal(actual, alone)
    assert len(actual.unique()) == len(actual) == min(wanted or total, total)
    for tiles in ranks:
        for batch, count in tiles:
            assert batch.items_BW.shape == (8, WINDOW)
            assert (batch.items_BW[count:] == PADDING).all()
            assert (batch.items_BW[:count, -1] != PADDING).all()
            # A row's key is its number.
            row_B = batch.key_B[:count].numpy()
            assert np.array_equal(batch.times_BW[:count], shards.take(row_B).times_RW)


def test_a_sample_is_spread_over_the_split() -> None:
    rows = real_rows(validation_tiles(MemoryShards(100), 10, 8, 1, 0))
    assert (rows[0], rows[-1]) == (0, 99)
    assert rows.diff().min() >= 10


@pytest.mark.parametrize("policy", ["none", "gumbel", "random"])
@pytest.mark.parametrize("tile_rows", [4, 16])
def test_validation_does_not_depend_on_tiles_or_their_fill(policy: str, tile_rows: int) -> None:
    engine = make_engine(run_config(policy))
    shards = MemoryShards(21)
    with_policy = policy != "none"
    tiles = validation_tiles(shards, None, tile_rows, 1, 0)
    actual = validate(engine, tiles, SingleProcess(), with_policy)
    one = validation_tiles(shards, None, 21, 1, 0)
    expected = validate(engine, one, SingleProcess(), with_policy)
    assert actual.scalars == pytest.approx(expected.scalars, rel=1e-4)
    assert np.array_equal(actual.keep_RL, expected.keep_RL)
    assert len(actual.keep_RL) == 21
    rank_B = engine.forward(one[0][0], Pass("validate"))["rank_B"]
    reciprocal = torch.where(rank_B <= 20, 1 / rank_B, 0.0)
    assert actual.scalars["validation/mrr@20"] == pytest.approx(reciprocal.mean().item(), rel=1e-5)
    assert (rank_B > 20).any(), "some rank must be larger than the cut"


@dataclass
class OneOfSeveral:
    """Collectives of a rank whose peers' rows are given. `calls` records its own rows."""

    peers: list["OneOfSeveral"] | None = None
    calls: list[torch.Tensor] = field(default_factory=list)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        self.calls.append(rows)
        if self.peers is None:
            return rows
        return torch.cat([peer.calls[len(self.calls) - 1] for peer in self.peers])


def calibrated(tiles: list[tuple[Batch, int]], comm: Any, keep_frac: float) -> TorchEngine:
    """An engine whose policy has the price that a validation of these tiles sets."""
    engine = make_engine(run_config("cost", policy__target_keep_frac=keep_frac))
    policy = engine.objective.policy_training
    policy.before_validation(lambda: decide_rows(engine, tiles, comm))
    return engine


def price(engine: TorchEngine) -> float:
    return float(engine.objective.network.policy.price_1)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("tile_rows", [4, 32])
def test_the_price_is_the_same_on_every_rank_at_any_world_size(
    world_size: int, tile_rows: int
) -> None:
    """Fill rows do not count. 21 rows do not fill the tiles evenly."""
    shards = MemoryShards(21)
    by_rank = [validation_tiles(shards, None, tile_rows, world_size, r) for r in range(world_size)]
    alone = validation_tiles(shards, None, 21, 1, 0)
    prices, own = [], []
    for keep_frac in (0.3, 0.5, 0.8):
        ranks = [OneOfSeveral() for _ in range(world_size)]
        for tiles, rank in zip(by_rank, ranks, strict=True):
            calibrated(tiles, rank, keep_frac)
        actual = [price(calibrated(tiles, OneOfSeveral(ranks), keep_frac)) for tiles in by_rank]
        assert len(set(actual)) == 1
        expected = price(calibrated(alone, SingleProcess(), keep_frac))
        assert actual[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        prices.append(expected)
        own.append(price(calibrated(by_rank[0], OneOfSeveral(), keep_frac)))
    assert len(set(prices)) == 3
    # The control: from its own rows alone, rank 0 would set another price.
    assert (own == pytest.approx(prices, rel=1e-4, abs=1e-5)) == (world_size == 1)


def test_a_calibrated_policy_keeps_its_share_of_the_validation_rows() -> None:
    tiles = validation_tiles(MemoryShards(60), None, 16, 1, 0)
    kept = []
    for keep_frac in (0.3, 0.6, 0.9):
        engine = calibrated(tiles, SingleProcess(), keep_frac)
        kept.append(validate(engine, tiles, SingleProcess(), True).scalars["policy/keep_frac"])
    # 60 rows choose among 1, 2 and 4 of 4 blocks: one row moves the share by at most 0.0125.
    assert kept == pytest.approx([0.3, 0.6, 0.9], abs=0.0125)
    assert all(share <= asked + 1e-6 for share, asked in zip(kept, (0.3, 0.6, 0.9), strict=True))


def test_policy_scalars_tell_a_personal_policy_from_a_collapsed_one() -> None:
    personal = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    collapsed = torch.tensor([[1.0, 0.0, 1.0]]).expand(4, -1)
    scalars = policy_scalars(personal, personal * 0.8)
    assert scalars["policy/keep_frac"] == pytest.approx(8 / 12)
    assert scalars["policy/distinct_decisions"] == 4
    assert scalars["policy/kept_blocks_std_between_users"] == pytest.approx(0.5**0.5)
    assert scalars["policy/keep_prob_var_between_users"] == pytest.approx(0.64 * (0 + 0.5) / 3)
    rates = [scalars[f"policy_blocks/{block:03d}"] for block in range(3)]
    assert rates == [1.0, 0.5, 0.5]
    same = policy_scalars(collapsed, None)
    assert same["policy/keep_frac"] == pytest.approx(8 / 12), "an equally good mean"
    assert same["policy/distinct_decisions"] == 1
    assert same["policy/kept_blocks_std_between_users"] == 0
    assert "policy/keep_prob_var_between_users" not in same


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("micro", [None, 2])
def test_the_reader_gives_ranks_their_slices_of_the_order(
    world_size: int, micro: int | None
) -> None:
    shards, order = MemoryShards(25), DataOrder(seed=1, num_rows=25)
    everything = shards.take(np.arange(25))
    assert everything.times_RW is not None
    for step in (0, 1, 5):
        parts = []
        for rank in range(world_size):
            reader = TrainingReader(shards, order, 10, world_size, rank, micro)
            batches = reader.micro_batches(step)
            assert len(batches) == reader.passes
            parts += batches
        row_R, key_R = order.rows(step * 10, step * 10 + 10)
        items = torch.cat([batch.items_BW for batch in parts]).numpy()
        assert np.array_equal(items, everything.items_RW[row_R])
        times = torch.cat([batch.times_BW for batch in parts]).numpy()
        assert np.array_equal(times, everything.times_RW[row_R])
        assert np.array_equal(torch.cat([batch.key_B for batch in parts]).numpy(), key_R)
