"""Serving: the same lists as masked execution and a full sort, at any batch size."""

import pytest
import torch

from skiprec.inference.executor import embed_requests, every_block, recommend
from tests.testkit.networks import (
    BACKBONE_NAMES,
    NUM_ITEMS,
    POLICY_NAMES,
    build_network,
    model_config,
    policy_config,
    random_batch,
)


@pytest.mark.parametrize("backbone", BACKBONE_NAMES)
@pytest.mark.parametrize("policy", POLICY_NAMES)
@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("final_norm", [None, True])
def test_lists_are_those_of_masked_execution(
    backbone: str, policy: str, exclude_seen: bool, final_norm: bool | None
) -> None:
    model = model_config(backbone, final_norm=final_norm)
    network = build_network(model, policy_config(policy)).eval()
    batch = random_batch(12)
    items_BT, times_BW = batch.input_BT, batch.times_BW
    items_BK, scores_BK = recommend(network, items_BT, 5, exclude_seen, times_BW=times_BW)
    with torch.no_grad():
        history = embed_requests(network, items_BT, times_BW)
        x_TBD = network.encode(history, network.decide(history), "masked")
        scores_BV = network.head(
            x_TBD[-1], lambda x, scores: x @ scores.weight_VD.t() + scores.bias_V
        )
    if exclude_seen:
        for row, seen in enumerate(items_BT.tolist()):
            scores_BV[row, [item - 1 for item in seen if item]] = -torch.inf
        assert not (items_BK[:, :, None] == items_BT[:, None, :]).any()
    expected = scores_BV.topk(5)
    torch.testing.assert_close(scores_BK, expected.values, rtol=1e-4, atol=1e-5)
    assert torch.equal(items_BK, expected.indices + 1)


def test_a_request_is_answered_alike_alone_and_in_a_batch() -> None:
    # A policy that draws, too: its draw follows the request, not the place in the batch.
    for policy in ("gumbel", "random"):
        network = build_network(model_config("nextitnet_plus"), policy_config(policy)).eval()
        items_BT = random_batch(9).input_BT
        together, _ = recommend(network, items_BT, 5, False)
        for row in range(9):
            alone, _ = recommend(network, items_BT[row : row + 1], 5, False)
            assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([1, 2, 3], r"of shape \[3\]; a single history needs a dimension in front"),
        ([[1.0, 2.0]], "got torch.float32"),
        ([], "of shape"),
        ([[]], r"of shape \[1, 0\]"),
        ([[1, 2], [0, 10_000]], r"row 1 holds \[0, 10000\]; expected ids of the catalogue"),
        ([[1, -2]], "row 0 .* expected ids of the catalogue"),
        ([[1, 2], [0, 0]], "row 1 .* newest item in the last position"),
        ([[1, 2, 0]], "row 0 .* padding .0. only to the left"),
        ([[1, 0, 2]], "row 0 .* padding .0. only to the left"),
    ],
)
def test_what_is_no_history_is_refused(items: list[object], message: str) -> None:
    network = build_network(model_config(), policy_config("gumbel")).eval()
    with pytest.raises(ValueError, match=message):
        recommend(network, torch.tensor(items), 5, False)
    recommend(network, torch.tensor([[0, 0, 1, NUM_ITEMS]]), 5, False)  # control


def test_another_way_to_decide_replaces_the_policy() -> None:
    network = build_network(model_config("nextitnet_plus"), policy_config("gumbel")).eval()
    items_BT = random_batch(12).input_BT
    full, _ = recommend(network, items_BT, NUM_ITEMS, False, every_block)
    skipping, _ = recommend(network, items_BT, NUM_ITEMS, False)
    assert not torch.equal(full, skipping)
    network.policy = None
    assert torch.equal(recommend(network, items_BT, NUM_ITEMS, False)[0], full)
