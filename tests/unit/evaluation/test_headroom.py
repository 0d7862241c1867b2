"""The parts of the headroom measurement against slow references."""

import numpy as np
import pytest
import torch

from skiprec.evaluation.headroom import regression as headroom
from skiprec.evaluation.headroom.block_sets import (
    BENDS,
    entropy_without_each,
    history_features,
    measure_sets,
    outputs_without_each,
    state_features,
)
from skiprec.evaluation.headroom.regression import (
    PENALTIES,
    correlation_interval,
    fit_ridge,
    lower_half,
    nested_sets,
    removal_order,
    sets_of_exits,
)
from skiprec.evaluation.measure import intervals
from skiprec.evaluation.measure.intervals import SEED, UserBootstrap
from skiprec.network import SkipRecNetwork
from skiprec.types import KeepDecision
from tests.testkit.networks import NUM_BLOCKS, WIDTH, build_network, model_config, random_batch
from tests.testkit.tiles import make_tiles, real_rows


@torch.no_grad()
def scores_under(network: SkipRecNetwork, items_BW: torch.Tensor, kept: list[int]) -> torch.Tensor:
    """Masked execution of one set of blocks, all scores at the last position."""
    history = network.embed(items_BW[:, :-1], torch.zeros(len(items_BW), dtype=torch.int64))
    keep_BL = torch.zeros(len(items_BW), NUM_BLOCKS)
    keep_BL[:, kept] = 1.0
    x_BD = network.encode(history, KeepDecision(keep_BL, None), "masked")[-1]
    return x_BD @ network.head.weight_VD.t() + network.head.bias_V


def entropy_under(network: SkipRecNetwork, items_BW: torch.Tensor, kept: list[int]) -> np.ndarray:
    log_BV = scores_under(network, items_BW, kept).double().log_softmax(1)
    return -log_BV.gather(1, items_BW[:, -1:] - 1)[:, 0].numpy()


def test_the_greedy_order_is_that_of_trying_every_removal() -> None:
    network, tiles = build_network(model_config("nextitnet_plus"), seed=2).eval(), make_tiles()
    items_BW = real_rows(tiles)
    kept, expected = list(range(NUM_BLOCKS)), []
    while kept:
        tried = {
            block: entropy_under(network, items_BW, [b for b in kept if b != block]).mean()
            for block in kept
        }
        found = entropy_without_each(network, tiles, tuple(kept))
        np.testing.assert_allclose(found, [tried[block] for block in kept], rtol=1e-4)
        expected.append(min(tried, key=lambda block: tried[block]))
        kept.remove(expected[-1])
    order = removal_order(NUM_BLOCKS, lambda kept: entropy_without_each(network, tiles, kept))
    assert list(order) == expected
    assert list(order) != sorted(order), "else any order would do"


def test_a_shared_trunk_computes_each_net_without_one_block() -> None:
    network = build_network(model_config("nextitnet")).eval()
    batch = random_batch(20)
    history = network.embed_batch(batch)
    kept = (0, 2, 3)
    with torch.no_grad():
        found_CBD = outputs_without_each(network, history, kept)
        for x_BD, left_out in zip(found_CBD, kept, strict=True):
            keep_BL = torch.zeros(20, NUM_BLOCKS)
            keep_BL[:, [block for block in kept if block != left_out]] = 1.0
            expected = network.encode(history, KeepDecision(keep_BL, None), "masked")[-1]
            torch.testing.assert_close(x_BD, expected, rtol=1e-4, atol=1e-5)


def test_sets_keep_what_is_taken_out_last() -> None:
    keep_SL = nested_sets((2, 0, 1))
    assert keep_SL.astype(int).tolist() == [[0, 1, 0], [1, 1, 0], [1, 1, 1]]


def test_of_many_blocks_several_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cost_L = np.random.default_rng(0).random(10)
    asked = []

    def costs_without(kept: tuple[int, ...]) -> np.ndarray:
        asked.append(len(kept))
        return cost_L[list(kept)]

    assert list(removal_order(10, costs_without)) == np.argsort(cost_L).tolist()
    assert asked == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    asked.clear()
    monkeypatch.setattr(headroom, "MAX_PASSES", 4)
    assert list(removal_order(10, costs_without)) == np.argsort(cost_L).tolist()
    assert asked == [10, 7, 4, 1]


def test_sets_are_measured_as_their_rows_alone_would_be() -> None:
    network, tiles = build_network(model_config("nextitnet_plus")).eval(), make_tiles()
    keep_SL = nested_sets((1, 3, 0, 2))
    entropy_RS, rank_RS = measure_sets(network, tiles, keep_SL)
    items_BW = real_rows(tiles)
    for column, keep_L in enumerate(keep_SL):
        kept = np.flatnonzero(keep_L).tolist()
        np.testing.assert_allclose(
            entropy_RS[:, column], entropy_under(network, items_BW, kept), rtol=1e-4, atol=1e-5
        )
        scores_BV = scores_under(network, items_BW, kept)
        target_B1 = scores_BV.gather(1, items_BW[:, -1:] - 1)
        assert (rank_RS[:, column] == 1 + (scores_BV > target_B1).sum(1).numpy()).all()


def test_features_are_of_the_real_items_and_not_of_the_target() -> None:
    network, tiles = build_network(model_config("nextitnet_plus")).eval(), make_tiles()
    found_RF, weight_F = history_features(network, tiles)
    table = network.embedding.table.weight.detach().double().numpy()
    for row, items in zip(found_RF, real_rows(tiles).tolist(), strict=True):
        history = [item for item in items[:-1] if item]
        expected = np.concatenate(
            [
                table[history].mean(0) if history else np.zeros(WIDTH),
                table[items[-2]],
                bent(len(history)),
            ]
        )
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)
    assert np.square(weight_F[: 2 * WIDTH]).sum() == pytest.approx(1), "as much as one number"
    assert (weight_F[2 * WIDTH :] == 1).all()


def bent(length: int) -> list[float]:
    """The logarithm, and how far it lies beyond each bend."""
    return [np.log1p(length), *(max(0.0, np.log1p(length) - np.log1p(bend)) for bend in BENDS)]


def test_sets_of_exits_are_the_first_blocks() -> None:
    keep_SL = sets_of_exits((1, 3, 4))
    assert keep_SL.astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_with_exits_each_set_has_passed_the_norm_of_its_exit() -> None:
    network, tiles = with_exits(), make_tiles()
    items_BW = real_rows(tiles)
    entropy_RS, _ = measure_sets(network, tiles, sets_of_exits(EXITS))
    with torch.no_grad():
        history = network.embed(items_BW[:, :-1], torch.zeros(len(items_BW), dtype=torch.int64))
        x_TBD = history.x_TBD
        for column, depth in enumerate(EXITS):
            for index in range(EXITS[column - 1] if column else 0, depth):
                x_TBD = network.stack.run_block(index, x_TBD, history.context_TBC, history.key_B)
            x_BD = torch.nn.functional.layer_norm(x_TBD[-1], (WIDTH,))
            x_BD = x_BD * network.exits.weight_MD[column] + network.exits.bias_MD[column]
            scores_BV = x_BD @ network.head.weight_VD.t() + network.head.bias_V
            log_B1 = scores_BV.double().log_softmax(1).gather(1, items_BW[:, -1:] - 1)
            np.testing.assert_allclose(entropy_RS[:, column], -log_B1[:, 0], rtol=1e-4)


def test_features_of_a_state_are_those_of_the_first_exit() -> None:
    """They do not know the target, nor what deeper blocks say."""
    network, tiles = with_exits(), make_tiles()
    found_RF, weight_F = state_features(network, tiles)
    items_BW = real_rows(tiles)
    with torch.no_grad():
        history = network.embed(items_BW[:, :-1], torch.zeros(len(items_BW), dtype=torch.int64))
        x_BD = network.stack.run_block(0, history.x_TBD, history.context_TBC, history.key_B)[-1]
        state_BD = torch.nn.functional.layer_norm(x_BD, (WIDTH,))
        x_BD = state_BD * network.exits.weight_MD[0] + network.exits.bias_MD[0]
        prob_BV = (x_BD @ network.head.weight_VD.t() + network.head.bias_V).double().softmax(1)
    entropy_B = -(prob_BV * prob_BV.log()).sum(1)
    best_B2 = prob_BV.log().topk(2, 1).values
    certainty_B2 = torch.stack([entropy_B, best_B2[:, 0] - best_B2[:, 1]], 1)
    length_BN = torch.tensor([bent(int((items_W[:-1] != 0).sum())) for items_W in items_BW])
    expected_RF = torch.cat(
        [state_BD, state_BD**2, certainty_B2, certainty_B2**2, length_BN], dim=1
    )
    np.testing.assert_allclose(found_RF, expected_RF, rtol=1e-3, atol=1e-4)
    assert np.square(weight_F[: 2 * WIDTH]).sum() == pytest.approx(1), "as much as one number"
    assert (weight_F[2 * WIDTH :] == 1).all()


def test_ridge_is_least_squares_with_rows_that_pull_weights_to_zero() -> None:
    draw = np.random.default_rng(0)
    x_RF = draw.normal(3, 5, (90, 4)) * [1, 10, 0.1, 1]
    x_RF[:, 3] = 7.0  # does not vary
    y_RM = np.stack([x_RF[:, 0] + draw.normal(0, 9, 90), draw.normal(2, 1, 90)], axis=1)
    weight_F = np.array([1.0, 1.0, 0.2, 1.0])
    ridge = fit_ridge(x_RF, weight_F, y_RM, np.repeat(np.arange(30, dtype=np.int32), 3))
    z_RF = weight_F * (x_RF - x_RF.mean(0)) / np.array([*x_RF[:, :3].std(0), 1.0])
    for m, penalty in enumerate(ridge.penalty_M):
        rows = np.concatenate([z_RF, np.sqrt(penalty) * np.eye(4)])
        values = np.concatenate([y_RM[:, m] - y_RM[:, m].mean(), np.zeros(4)])
        weight_F = np.linalg.lstsq(rows, values, rcond=None)[0]
        expected_R = z_RF @ weight_F + y_RM[:, m].mean()
        np.testing.assert_allclose(ridge.predict(x_RF)[:, m], expected_R, rtol=1e-9)


def test_the_penalty_follows_what_there_is_to_learn() -> None:
    draw = np.random.default_rng(1)
    x_RF = draw.normal(0, 1, (400, 30))
    y_RM = np.stack([x_RF @ draw.normal(0, 1, 30), draw.normal(0, 1, 400)], axis=1)
    clear, noise = fit_ridge(x_RF, np.ones(30), y_RM, np.arange(400, dtype=np.int32)).penalty_M
    assert clear == PENALTIES[0]
    assert noise >= 1000


def test_rows_of_a_user_never_stand_on_both_sides_of_the_cross_validation() -> None:
    """Users who can be told apart but say nothing: copies of a row would be learned by heart."""
    draw = np.random.default_rng(2)
    user_R = np.repeat(np.arange(60, dtype=np.int32), 8)
    x_RF, y_R1 = draw.normal(0, 1, (60, 50))[user_R], draw.normal(0, 1, (60, 1))[user_R]
    together = fit_ridge(x_RF, np.ones(50), y_R1, user_R).penalty_M[0]
    apart = fit_ridge(x_RF, np.ones(50), y_R1, np.arange(480, dtype=np.int32)).penalty_M[0]
    assert apart < 10 < 100 < together


def test_the_interval_of_a_correlation_resamples_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 30)
    draw = np.random.default_rng(0)
    user_R = np.repeat(np.arange(25, dtype=np.int32), 2)
    a_R = 1000 + draw.normal(0, 1, 50)
    b_R = a_R + draw.normal(0, 1, 50)
    found, bounds = correlation_interval(UserBootstrap(user_R), a_R, b_R)
    assert found == pytest.approx(np.corrcoef(a_R, b_R)[0, 1])
    resampled = []
    for users in np.random.default_rng(SEED).integers(0, 25, (30, 25)):
        rows = np.concatenate([[2 * user, 2 * user + 1] for user in users])
        resampled.append(np.corrcoef(a_R[rows], b_R[rows])[0, 1])
    assert bounds == pytest.approx(np.quantile(resampled, (0.025, 0.975)).tolist())
    assert correlation_interval(UserBootstrap(user_R), np.ones(50), b_R) == (None, None)


def test_half_of_the_rows_are_chosen() -> None:
    assert lower_half(np.array([3.0, 1.0, 2.0, 1.0, 5.0])).tolist() == [
        False,
        True,
        False,
        True,
        False,
    ]


EXITS = (1, 3, NUM_BLOCKS)


def with_exits() -> SkipRecNetwork:
    """A network with exits; each norm has weights of its own."""
    network = build_network(model_config("nextitnet_plus", exits=EXITS)).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        for parameter in network.exits.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return network
