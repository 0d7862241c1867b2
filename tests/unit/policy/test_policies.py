"""The interface of `skiprec/policy/base.py`, checked for every registered policy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from skiprec.network import SkipRecNetwork
from skiprec.policy.encoders import ENCODERS
from skiprec.policy.kinds import OPTIONS
from skiprec.policy.section import PolicySection
from skiprec.types import PADDING, Batch, KeepDecision
from tests.testkit.networks import (
    LEARNED,
    NUM_BLOCKS,
    NUM_ITEMS,
    POLICY_NAMES,
    WINDOW,
    awaken,
    build_network,
    model_config,
    policy_config,
    random_batch,
    take_rows,
)

# A learned policy is tested with each encoder, "gumbel/conv", and on an early state.
STATE = "state"
LEARNED_KINDS = [f"{kind}/{what}" for kind in LEARNED for what in (*sorted(ENCODERS), STATE)]
CONTROLS = sorted(set(POLICY_NAMES) - set(LEARNED))
each_policy = pytest.mark.parametrize("kind", CONTROLS + LEARNED_KINDS)
each_learned = pytest.mark.parametrize("kind", LEARNED_KINDS)
each_way = pytest.mark.parametrize("progress", [None, 0.7], ids=["serving", "training"])


def each_with(option: str) -> pytest.MarkDecorator:
    """The learned policies whose section has this option."""
    kinds = {kind for kind in LEARNED if option in OPTIONS[kind].model_fields}
    assert kinds, f"no learned policy has the option {option}"
    return pytest.mark.parametrize(
        "kind", [name for name in LEARNED_KINDS if name.partition("/")[0] in kinds]
    )


def decide(network: SkipRecNetwork, batch: Batch, progress: float | None = None) -> KeepDecision:
    decision = network.decide(network.embed_batch(batch), progress)
    assert decision is not None
    return decision


def opinion(decision: KeepDecision) -> Tensor:
    """The numbers from which a learned policy decides: P(keep), or its predicted costs."""
    thought = decision.cost_BM if decision.prob_BL is None else decision.prob_BL
    assert thought is not None
    return thought


def decided_probabilities(network: SkipRecNetwork, batch: Batch) -> Tensor:
    """P(keep) of the blocks about which the policy decides."""
    prob_BL = decide(network, batch).prob_BL
    assert prob_BL is not None
    return prob_BL[:, network.policy.reads_after or 0 :]


def sharpen(network: SkipRecNetwork, factor: float) -> None:
    """Enlarges the weights of the policy's head, so that decisions depend more on the history."""
    with torch.no_grad():
        for parameter in network.policy.head.parameters():
            if parameter.dim() == 2:
                parameter.mul_(factor)


def policy_of(kind: str, **changes: object) -> PolicySection:
    name, _, what = kind.partition("/")
    reads = {"reads_after": 1} if what == STATE else {"encoder": what} if what else {}
    return policy_config(name, **reads | changes)


def network_with(kind: str, **changes: object) -> SkipRecNetwork:
    return build_network(model_config(), policy_of(kind, **changes))


@each_policy
@each_way
def test_decisions_are_exactly_0_or_1(kind: str, progress: float | None) -> None:
    keep_BL = decide(network_with(kind), random_batch(64), progress).keep_BL
    assert keep_BL.shape == (64, NUM_BLOCKS)
    assert ((keep_BL == 0) | (keep_BL == 1)).all()


@each_policy
@each_way
def test_the_same_batch_gets_the_same_decisions(kind: str, progress: float | None) -> None:
    network, batch = network_with(kind).train(), random_batch(64)
    assert torch.equal(
        decide(network, batch, progress).keep_BL, decide(network, batch, progress).keep_BL
    )


@each_policy
@each_way
def test_a_decision_does_not_depend_on_the_other_rows(kind: str, progress: float | None) -> None:
    network, batch = network_with(kind), random_batch(40)
    whole = decide(network, batch, progress)
    rows = torch.tensor([31, 4, 17])
    part = decide(network, take_rows(batch, rows), progress)
    assert torch.equal(part.keep_BL, whole.keep_BL[rows])


@each_policy
@each_way
def test_a_policy_reads_the_history_and_not_the_target(kind: str, progress: float | None) -> None:
    network, batch = network_with(kind), random_batch(64)
    items = batch.items_BW.clone()
    items[:, -1] = items[:, -1] % NUM_ITEMS + 1
    changed = decide(network, Batch(items, batch.key_B), progress)
    assert torch.equal(changed.keep_BL, decide(network, batch, progress).keep_BL)


@each_learned
def test_a_learned_policy_does_read_the_history(kind: str) -> None:
    """The control of the test above."""
    network, batch = network_with(kind), random_batch(64)
    items = batch.items_BW.clone()
    items[:, -2] = items[:, -2] % NUM_ITEMS + 1
    changed = opinion(decide(network, Batch(items, batch.key_B)))
    assert not torch.equal(changed, opinion(decide(network, batch)))


@each_learned
def test_serving_does_not_look_at_the_key(kind: str) -> None:
    network, batch = network_with(kind), random_batch(64)
    other = Batch(batch.items_BW, batch.key_B + 1)
    assert torch.equal(decide(network, batch).keep_BL, decide(network, other).keep_BL)
    assert not torch.equal(decide(network, batch, 1.0).keep_BL, decide(network, other, 1.0).keep_BL)


@each_learned
def test_padding_changes_no_opinion(kind: str) -> None:
    """The decision is the same in a window of the history's length and in a longer window."""
    network, batch = network_with(kind), random_batch(WINDOW - 2)
    whole = opinion(decide(network, batch))
    for row in range(WINDOW - 2):
        short = Batch(batch.items_BW[row : row + 1, row:], batch.key_B[row : row + 1])
        torch.testing.assert_close(opinion(decide(network, short))[0], whole[row])


@each_learned
def test_an_empty_history_still_gets_a_decision(kind: str) -> None:
    empty = Batch(torch.full((2, WINDOW), PADDING), torch.arange(2))
    decision = decide(network_with(kind), empty)
    assert torch.isfinite(opinion(decision)).all()
    assert ((decision.keep_BL == 0) | (decision.keep_BL == 1)).all()


@each_learned
def test_users_get_different_decisions_once_the_weights_differ(kind: str) -> None:
    """At some setting of the knob, for most draws of the weights; a single draw may show none."""
    distinct = []
    for seed in range(5):
        network = network_with(kind)
        network.reset_parameters(seed)
        awaken(network, seed)
        sharpen(network, 20)
        numbers_RK = opinion(decide(network, random_batch(64))).detach().numpy()
        points = network.policy.knob.points(numbers_RK)
        assert points
        distinct.append(max(len(np.unique(point.keep_RL, axis=0)) for point in points))
    assert sorted(distinct)[2] > 1


@each_with("initial_keep_prob")
@pytest.mark.parametrize("probability", [0.2, 0.5, 0.85])
@pytest.mark.parametrize("width", [6, 64])
def test_every_block_first_has_the_keep_probability_that_was_asked_for(
    kind: str, probability: float, width: int
) -> None:
    policy = policy_of(kind, initial_keep_prob=probability, width=width)
    network = build_network(model_config(width=64), policy, awake=False)
    prob_BL = decided_probabilities(network, random_batch(64))
    assert (prob_BL - probability).abs().max() < 0.1


@each_with("logits")
def test_the_released_code_s_sigmoid_bounds_the_probability(kind: str) -> None:
    network = network_with(kind, logits="sigmoid")
    sharpen(network, 1000)
    prob_BL = decided_probabilities(network, random_batch(200))
    low, high = 1 / (1 + torch.e), torch.e / (1 + torch.e)  # 0.269, 0.731
    assert prob_BL.min() >= low - 1e-6
    assert prob_BL.max() <= high + 1e-6
    assert prob_BL.max() > 0.7, "the bound is reached"
    raw = network_with(kind, logits="raw")
    sharpen(raw, 1000)
    assert decided_probabilities(raw, random_batch(200)).max() > 0.99


@each_with("logits")
@pytest.mark.parametrize("probability", [0.3, 0.5, 0.7])
def test_the_keep_probability_is_met_under_the_sigmoid_too(kind: str, probability: float) -> None:
    policy = policy_of(kind, logits="sigmoid", initial_keep_prob=probability)
    network = build_network(model_config(), policy, awake=False)
    prob_BL = decided_probabilities(network, random_batch(64))
    assert (prob_BL - probability).abs().max() < 0.03


@each_with("noise_at_inference")
def test_noise_at_inference_makes_serving_a_sample(kind: str) -> None:
    network, batch = network_with(kind, noise_at_inference=True).eval(), random_batch(200)
    other = Batch(batch.items_BW, batch.key_B + 1)
    assert not torch.equal(decide(network, batch).keep_BL, decide(network, other).keep_BL)


@pytest.mark.parametrize("kind", [kind for kind in LEARNED_KINDS if not kind.endswith(STATE)])
@pytest.mark.parametrize("own", [True, False])
def test_own_embedding_or_the_backbone_s(kind: str, own: bool) -> None:
    network = network_with(kind, own_embedding=own)
    names = {name for name, _ in network.policy.named_parameters()}
    assert ("trunk.embedding.table.weight" in names) == own
    assert ("trunk.project.weight" in names) == (not own)
    history = network.embed(random_batch(8).input_BT, random_batch(8).key_B)
    decision = network.decide(history, 1.0)
    assert decision is not None
    opinion(decision).sum().backward()
    backbone_gradient = network.embedding.table.weight.grad
    assert (backbone_gradient is None) == own


@each_policy
def test_weights_survive_a_round_trip(kind: str) -> None:
    network = network_with(kind)
    other = build_network(model_config(), policy_of(kind), seed=1)
    other.load_state_dict(network.state_dict())
    batch = random_batch(64)
    assert torch.equal(decide(other, batch, 1.0).keep_BL, decide(network, batch, 1.0).keep_BL)


def test_keep_all_keeps_all() -> None:
    assert (decide(network_with("keep_all"), random_batch(5)).keep_BL == 1).all()


def test_fixed_keeps_its_blocks_for_everyone() -> None:
    keep_BL = decide(network_with("fixed", keep_blocks=(1, 3)), random_batch(5)).keep_BL
    assert keep_BL.tolist() == [[0.0, 1.0, 0.0, 1.0]] * 5
    none = decide(network_with("fixed", keep_blocks=()), random_batch(5)).keep_BL
    assert (none == 0).all()


@pytest.mark.parametrize("block", [-1, NUM_BLOCKS])
def test_fixed_refuses_a_block_that_is_not_there(block: int) -> None:
    with pytest.raises(ValueError, match="blocks 0 to 3"):
        network_with("fixed", keep_blocks=(0, block))


@pytest.mark.parametrize("keep_frac", [0.0, 0.3, 1.0])
def test_random_keeps_its_share_of_each_block_independently(keep_frac: float) -> None:
    batch = random_batch(8000)
    keep_BL = decide(network_with("random", keep_frac=keep_frac), batch).keep_BL
    assert ((keep_BL.mean(0) - keep_frac).abs() < 4 * 0.5 / 8000**0.5).all()
    if 0 < keep_frac < 1:
        off_diagonal = torch.corrcoef(keep_BL.t()) - torch.eye(NUM_BLOCKS)
        assert off_diagonal.abs().max() < 4 / 8000**0.5


def test_an_unknown_encoder_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown policy.encoder 'lstm'; there are: conv"):
        network_with("gumbel", encoder="lstm")
