"""The cost policy: the set that it chooses, the price that meets a share, and exploration."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from skiprec.network import SkipRecNetwork
from skiprec.policy.prices import cheapest, price_for
from skiprec.types import Batch, KeepDecision
from tests.testkit.networks import build_network, model_config, policy_config, random_batch

SIZES = (1, 2, 4)  # the sets of the test networks: `nest_sizes` (1, 2) and all 4 blocks
SIZE_M = torch.tensor([2, 5, 9, 16])
# float32 cannot distinguish prices that are closer than this.
STEP = 1e-5


def costs(num_rows: int = 40, seed: int = 0) -> Tensor:
    """Costs that mostly fall with the number of blocks; all blocks cost 0."""
    generator = torch.Generator().manual_seed(seed)
    slope_B1 = torch.rand(num_rows, 1, generator=generator) * 2 - 0.3
    noise_BM = 0.2 * torch.randn(num_rows, len(SIZE_M), generator=generator)
    cost_BM = slope_B1 * (1 - SIZE_M / SIZE_M[-1]) + noise_BM
    return cost_BM - cost_BM[:, -1:]


def kept(cost_BM: Tensor, price: float) -> float:
    """The share of kept blocks at a price, computed row by row and set by set."""
    shares = []
    for cost_M in cost_BM.double().tolist():
        total_M = [c + price * n / 16 for c, n in zip(cost_M, SIZE_M.tolist(), strict=True)]
        shares.append(SIZE_M.tolist()[total_M.index(min(total_M))] / 16)
    return sum(shares) / len(shares)


def turning_prices(cost_BM: Tensor) -> list[float]:
    """The prices at which two sets of some row are equally good, so that its choice may change."""
    prices = set()
    for cost_M in cost_BM.double().tolist():
        for i in range(len(cost_M)):
            for j in range(i):
                prices.add((cost_M[j] - cost_M[i]) * 16 / float(SIZE_M[i] - SIZE_M[j]))
    return sorted(prices)


def attainable_shares(cost_BM: Tensor) -> list[float]:
    """All shares of block calls that a price can give, from one price between any two turns."""
    turns = turning_prices(cost_BM)
    between = [(a + b) / 2 for a, b in itertools.pairwise(turns)]
    return sorted({kept(cost_BM, price) for price in [turns[0] - 1, *between, turns[-1] + 1]})


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("keep_frac", [0.13, 0.3, 0.5, 0.77, 0.95, 1.0])
def test_the_price_meets_the_share_as_closely_as_whole_sets_can(
    seed: int, keep_frac: float
) -> None:
    cost_BM = costs(seed=seed)
    shares = attainable_shares(cost_BM)
    assert len(shares) > 30
    price = price_for(cost_BM, SIZE_M, keep_frac)
    assert kept(cost_BM, price + STEP) == max(share for share in shares if share <= keep_frac)
    if keep_frac < shares[-1]:
        assert kept(cost_BM, price - STEP) > keep_frac, "a lower price keeps too much"


def test_the_price_falls_as_more_may_be_kept_and_fewer_are_kept_as_it_rises() -> None:
    cost_BM = costs()
    prices = [price_for(cost_BM, SIZE_M, frac / 20) for frac in range(3, 20)]
    assert prices == sorted(prices, reverse=True)
    assert len(set(prices)) > 10
    by_price = [
        SIZE_M[cheapest(cost_BM, SIZE_M, torch.tensor([p / 10]))] for p in range(-20, 40, 3)
    ]
    for dearer_B, cheaper_B in zip(by_price[1:], by_price, strict=False):
        assert (dearer_B <= cheaper_B).all(), "no row keeps more at a higher price"
    assert (by_price[-1] < by_price[0]).any()


def test_a_share_below_the_smallest_set_gives_everyone_the_smallest() -> None:
    price = price_for(costs(), SIZE_M, 0.01)
    assert (cheapest(costs(), SIZE_M, torch.tensor([price])) == 0).all()


def test_the_cheapest_set_is_the_one_with_the_least_cost_and_price() -> None:
    cost_BM = torch.tensor([[0.5, 0.2, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0], [9.0, 0.9, 0.0, 0.0]])
    free = cheapest(cost_BM, SIZE_M, torch.tensor([0.0]))
    assert free.tolist() == [3, 0, 2], "the smaller of two equal sets"
    # At 0.8 nats for all blocks, the four sets cost 0.1, 0.25, 0.45 and 0.8 nats more.
    assert cheapest(cost_BM, SIZE_M, torch.tensor([0.8])).tolist() == [1, 0, 2]
    assert cheapest(cost_BM, SIZE_M, torch.tensor([-0.8])).tolist() == [3, 3, 3]


def network_with(**options: Any) -> SkipRecNetwork:
    return build_network(model_config(), policy_config("cost", **options))


def decide(network: SkipRecNetwork, batch: Batch, progress: float | None) -> KeepDecision:
    decision = network.decide(network.embed_batch(batch), progress)
    assert decision is not None
    return decision


def size_of(keep_BL: Tensor) -> Tensor:
    """The number n of each decision; fails if a decision is not the first n blocks."""
    size_B = keep_BL.sum(1).long()
    assert torch.equal(keep_BL, (torch.arange(keep_BL.shape[1]) < size_B[:, None]).float())
    return size_B


def test_serving_takes_the_cheapest_prefix_of_its_predictions() -> None:
    network, batch = network_with(), random_batch(64)
    for price in (0.0, 0.3, -0.3):
        network.policy.price_1.fill_(price)
        decision = decide(network, batch, None)
        assert (decision.cost_BM[:, -1] == 0).all(), "the cost is relative to all blocks"
        total_BM = decision.cost_BM + price * torch.tensor([0.25, 0.5, 1.0])
        expected_B = torch.tensor(SIZES)[total_BM.argmin(1)]
        assert torch.equal(size_of(decision.keep_BL), expected_B)
    sizes = {int(size) for size in size_of(decide(network, batch, None).keep_BL)}
    assert len(sizes) > 1


def test_explored_decisions_are_prefixes_of_the_nest_each_as_often() -> None:
    network, batch = network_with(explore_frac=1.0), random_batch(6000)
    size_B = size_of(decide(network, batch, 0.5).keep_BL)
    for size in SIZES:
        assert abs((size_B == size).double().mean().item() - 1 / 3) < 4 * (2 / 9 / 6000) ** 0.5
    assert torch.isin(size_B, torch.tensor(SIZES)).all()


def test_rows_that_do_not_explore_run_what_serving_runs() -> None:
    batch = random_batch(6000)
    greedy = network_with(explore_frac=0.0)
    serving_B = size_of(decide(greedy, batch, None).keep_BL)
    assert torch.equal(size_of(decide(greedy, batch, 0.5).keep_BL), serving_B)
    some_B = size_of(decide(network_with(explore_frac=0.3), batch, 0.5).keep_BL)
    # A third of the exploring rows draws the set that serving would run.
    assert abs((some_B != serving_B).double().mean().item() - 0.2) < 4 * (0.16 / 6000) ** 0.5


def test_the_deepest_set_is_offered_whether_it_is_named_or_not() -> None:
    for nest in ((1, 2), (1, 2, 4)):
        assert network_with(nest_sizes=nest).policy.sizes == SIZES


def test_the_price_goes_with_the_weights_and_decides() -> None:
    network = build_network(model_config(), policy_config("cost"))
    batch = random_batch(64)
    before = decide(network, batch, None).keep_BL
    network.policy.price_1.fill_(0.7)
    state = network.state_dict()
    assert state["policy.price_1"].tolist() == pytest.approx([0.7])
    other = build_network(model_config(), policy_config("cost"), seed=1)
    other.load_state_dict(state)
    dearer = decide(other, batch, None).keep_BL
    assert torch.equal(dearer, decide(network, batch, None).keep_BL)
    assert (dearer.sum(1) <= before.sum(1)).all()
    assert dearer.sum() < before.sum(), "a price makes blocks more expensive"


@pytest.mark.parametrize("kind", ["cost", "gumbel"])
def test_the_price_is_not_rounded_in_a_bfloat16_network(kind: str) -> None:
    network = build_network(model_config(), policy_config(kind))
    network.policy.price_1.fill_(1.0)
    network.bfloat16()
    assert network.policy.head.state_dict().popitem()[1].dtype == torch.bfloat16
    for _ in range(100):
        network.policy.price_1 += 1e-3  # less than half a unit in the last place of bfloat16
    assert network.policy.price_1.item() == pytest.approx(1.1, abs=1e-5)
    keep_BL = decide(network, random_batch(5), None).keep_BL
    assert ((keep_BL == 0) | (keep_BL == 1)).all()


def test_a_share_of_exactly_the_smallest_set_has_a_price_that_means_something() -> None:
    size_M = torch.tensor([2, 4, 6])
    cost_BM = torch.tensor([[0.3, 0.1, 0.0], [0.2, 0.05, 0.0]])
    price = price_for(cost_BM, size_M, 1 / 3)
    # The first row takes 2 blocks instead of 4 from a price of 0.6 on: 0.3 + p / 3 = 0.1 + 2 p / 3.
    assert price == pytest.approx(0.6, rel=1e-5)
