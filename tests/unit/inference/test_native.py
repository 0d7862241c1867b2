"""The native executor answers what the PyTorch executor answers, at every level of the machine."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from skiprec.inference.executor import embed_requests, recommend
from skiprec.inference.native.from_network import NativeNetwork, flat_histories
from skiprec.inference.native.library import BF16_LEVELS, Answer, bf16_levels, levels
from skiprec.inference.native.pack import BACKBONES
from skiprec.models import registry
from skiprec.network import SkipRecNetwork
from skiprec.types import KeepDecision
from tests.testkit.native import native_library
from tests.testkit.networks import LEARNED, awaken, model_config, policy_config

POLICIES: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    *((kind, {}) for kind in LEARNED),
    ("gumbel", {"own_embedding": True}),
    ("gumbel", {"logits": "sigmoid"}),
    *((kind, {"reads_after": 1}) for kind in LEARNED),
    ("cost", {"reads_after": 1, "features": ("length",)}),
    ("gumbel", {"reads_after": 1, "features": ("length", "state")}),
]
TOLERANCE = 2e-5  # of the largest score: sums in another order


@dataclass(frozen=True)
class Case:
    """A network and some requests, all drawn from `seed`."""

    backbone: str = "nextitnet_plus"
    policy: int = 1
    heads: int = 2
    channels: int = 4  # of a head
    window: int = 9
    blocks: int = 3
    items: int = 40
    rows: int = 5
    k: int = 7
    policy_width: int = 6
    has_norm: bool = True
    has_exits: bool = False
    add_up: bool = False
    is_tied: bool = False
    exclude_seen: bool = False
    threads: int = 1
    seed: int = 0

    def network(self) -> SkipRecNetwork:
        options = {"num_heads": self.heads} if "sasrec" in self.backbone else {"dilations": (1, 3)}
        model = model_config(
            self.backbone,
            width=self.heads * self.channels,
            num_blocks=self.blocks,
            final_norm=None if self.has_exits else self.has_norm,
            exits=self.exits if self.has_exits else None,
            exit_readouts=True if self.has_exits and self.add_up else None,
            tied_items=self.is_tied or None,
            **options,
        )
        kind, changes = POLICIES[self.policy]
        if "reads_after" in changes:  # the first blocks of a network of two or more
            changes = changes | {"reads_after": max(1, self.blocks // 2)}
        if kind != "none":
            changes = changes | {"width": self.policy_width}
        if kind == "cost":
            changes = changes | {"nest_sizes": (changes.get("reads_after", 1),)}
        network = SkipRecNetwork(model, policy_config(kind, **changes), self.items)
        network.reset_parameters(self.seed)
        awaken(network, self.seed)
        return network.eval()

    @property
    def exits(self) -> tuple[int, ...]:
        return tuple(sorted({1, (self.blocks + 1) // 2, self.blocks}))

    def histories(self) -> Tensor:
        generator = np.random.default_rng(self.seed)
        items_BT = np.zeros((self.rows, self.window), np.int64)
        for row in items_BT:
            length = generator.integers(1, self.window + 1)
            row[-length:] = generator.integers(1, self.items + 1, length)
        return torch.from_numpy(items_BT)


CASES = st.builds(
    Case,
    backbone=st.sampled_from(sorted(BACKBONES)),
    policy=st.integers(0, len(POLICIES) - 1),
    heads=st.integers(1, 3),
    channels=st.integers(1, 40),
    window=st.integers(1, 40),
    blocks=st.integers(2, 6),
    items=st.integers(1, 300),
    rows=st.integers(1, 40),
    k=st.integers(1, 30),
    policy_width=st.integers(1, 40),
    has_norm=st.booleans(),
    has_exits=st.booleans(),
    add_up=st.booleans(),
    is_tied=st.booleans(),
    exclude_seen=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**20),
)


def native(network: SkipRecNetwork, window: int, level: str | None = None) -> NativeNetwork:
    return NativeNetwork(network, window, level, native_library())


def assert_same_answer(case: Case, level: str) -> None:
    network, items_BT = case.network(), case.histories()
    k = min(case.k, case.items)
    answer = native(network, case.window, level).recommend(
        items_BT, k, case.exclude_seen, threads=case.threads
    )
    with torch.inference_mode():
        decision = network.decide(embed_requests(network, items_BT))
        keep_BL = torch.from_numpy(answer.keep_BL).float()
        if decision is None:
            assert answer.keep_BL.all()
        else:
            # Awakened logits are never so near to each other that another order of sums decides.
            assert torch.equal(keep_BL, (decision.keep_BL > 0).float())
        want_BK, score_BK = recommend(network, items_BT, k, case.exclude_seen)
    expected = score_BK.numpy()
    is_item = answer.items_BK > 0
    assert np.array_equal(is_item, np.isfinite(expected))
    scale = np.abs(expected[is_item]).max(initial=1e-3)
    error = np.abs(answer.scores_BK[is_item] - expected[is_item]).max(initial=0)
    assert error <= TOLERANCE * scale
    differs = (answer.items_BK != want_BK.numpy()) & is_item
    for row, place in np.argwhere(differs):  # near ties may swap
        others = np.abs(expected[row] - expected[row, place]) < 2 * TOLERANCE * scale
        assert others.sum() > 1 or place == k - 1


@pytest.mark.parametrize("level", ["avx512_vnni", "avx512", "avx2", "generic"])
@settings(max_examples=40, deadline=None)
@example(Case(channels=32, heads=2, window=20, rows=33, threads=2))
@example(Case(rows=1, window=1, items=1, k=1, blocks=1, channels=1, heads=1, has_exits=False))
@example(Case(policy=len(POLICIES) - 1, has_exits=True, window=40, rows=70, blocks=6))
@example(Case(policy=len(POLICIES) - 2, has_exits=True, window=40, rows=70, blocks=6))
@example(Case(backbone="sasrec_plus", window=70, channels=17))
@example(Case(policy=len(POLICIES) - 3, has_exits=True, add_up=True, window=40, rows=70, blocks=6))
@example(Case("sasrec_plus", policy=5, has_exits=True, add_up=True, rows=70, blocks=6))
@given(case=CASES)
def test_it_answers_what_pytorch_answers(level: str, case: Case) -> None:
    if level not in levels(native_library()):
        pytest.skip(f"this processor has no {level}")
    assert_same_answer(case, level)


def test_it_knows_every_backbone() -> None:
    """A new backbone gets the parity test above, or is refused by its name."""
    assert set(BACKBONES) <= set(registry.BACKBONES)
    for name in set(registry.BACKBONES) - set(BACKBONES):
        network = SkipRecNetwork(model_config(name), policy_config("none"), 5)
        with pytest.raises(ValueError, match=name):
            native(network, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cosine_temperature": 0.1, "tied_items": True}, "model.cosine_temperature"),
    ],
)
def test_a_head_that_it_does_not_know_is_refused_by_name(
    changes: dict[str, Any], message: str
) -> None:
    model = model_config("nextitnet_plus", num_blocks=3, **changes)
    with pytest.raises(ValueError, match=message):
        native(SkipRecNetwork(model, policy_config("none"), 5), 5)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gumbel", {"encoder": "gru"}, "policy.encoder"),
        ("reinforce", {"encoder": "attention"}, "policy.encoder"),
        ("gumbel", {"noise_at_inference": True}, "linear head alone"),
        ("cost", {"reads_after": 1, "features": ("state", "entropy")}, "policy.features"),
    ],
)
def test_a_policy_that_it_does_not_know_is_refused_by_name(
    kind: str, changes: dict[str, Any], message: str
) -> None:
    network = SkipRecNetwork(model_config(), policy_config(kind, **changes), 5)
    with pytest.raises(ValueError, match=message):
        native(network, 5)


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
@pytest.mark.parametrize("add_up", [False, True])
def test_given_decisions_run_the_given_blocks(backbone: str, add_up: bool) -> None:
    case = Case(backbone=backbone, rows=20, blocks=4, has_exits=add_up, add_up=add_up)
    network, items_BT = case.network(), case.histories()
    keep_BL = np.random.default_rng(0).random((case.rows, 4)) < 0.5
    keep_BL[0], keep_BL[1] = False, True
    answer = native(network, case.window).recommend(items_BT, 5, False, keep_BL)
    assert np.array_equal(answer.keep_BL, keep_BL)
    given_decision = KeepDecision(torch.from_numpy(keep_BL).float(), None)
    _, score_BK = recommend(network, items_BT, 5, False, lambda *_: given_decision)
    np.testing.assert_allclose(answer.scores_BK, score_BK, rtol=2e-4, atol=2e-5)
    swapped = native(network, case.window).recommend(items_BT, 5, False, keep_BL[::-1])
    assert not np.allclose(swapped.scores_BK, answer.scores_BK)  # control: the decisions matter


def test_rows_do_not_depend_on_each_other_nor_on_threads() -> None:
    """The same bits alone, in a batch, on several threads, and from several callers at once."""
    case = Case(rows=70, window=30, blocks=5, channels=33)
    model, items_BT = native(case.network(), case.window), case.histories()
    batch = model.recommend(items_BT, 9, True)
    for row in range(case.rows):
        alone = model.recommend(items_BT[row : row + 1], 9, True)
        assert np.array_equal(alone.items_BK[0], batch.items_BK[row])
        assert np.array_equal(alone.scores_BK[0], batch.scores_BK[row])

    def call(threads: int) -> bool:
        answer = model.recommend(items_BT, 9, True, threads=threads)
        return np.array_equal(answer.scores_BK, batch.scores_BK)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, [1, 2, 3, 4] * 8))


def test_histories_may_be_empty_or_longer_than_the_window() -> None:
    case = Case(window=6, rows=1)
    model = native(case.network(), case.window).model
    long = np.arange(1, 21, dtype=np.int32)
    ends = np.array([20, 20, 26])
    answer = model.recommend(np.concatenate([long, long[14:]]), ends, 5)
    assert np.array_equal(answer.items_BK[0], answer.items_BK[2])
    assert np.array_equal(answer.scores_BK[0], answer.scores_BK[2])
    assert np.isfinite(answer.scores_BK[1]).all()
    assert answer.keep_BL[1].all()
    nothing = model.recommend(np.empty(0, np.int32), np.empty(0, np.int64), 5)
    assert nothing.items_BK.shape == (0, 5)


def test_seen_items_are_those_of_the_whole_history() -> None:
    case = Case(window=3, items=12)
    model = native(case.network(), case.window).model
    answer = model.recommend(np.arange(1, 11, dtype=np.int32), np.array([10]), 5, True)
    assert sorted(answer.items_BK[0]) == [0, 0, 0, 11, 12]
    assert flat_histories(torch.tensor([[0, 3], [1, 2]]))[1].tolist() == [1, 3]


@pytest.mark.parametrize("level", BF16_LEVELS)
@pytest.mark.parametrize(
    "case",
    [
        Case("nextitnet_plus", heads=1, channels=64, window=30, blocks=6, items=300, rows=20),
        Case("nextitnet", heads=1, channels=37, window=9, items=200, rows=20, seed=1),
        # The root of the channels of a head, which divides the queries' matrix, is a power of 2.
        Case("sasrec_plus", heads=2, channels=16, window=20, items=200, rows=20, seed=2),
        Case("sasrec_plus_authors", heads=1, channels=256, window=7, rows=3, seed=3),
    ],
)
def test_bf16_products_are_those_of_rounded_operands(case: Case, level: str) -> None:
    """Beside a slow reference that rounds the operands of each product of a block."""
    if level not in bf16_levels(native_library()):
        pytest.skip(f"this processor has no {level}")
    network, items_BT = case.network(), case.histories()
    exact = native(network, case.window)
    keep_BL = exact.recommend(items_BT, 1, False).keep_BL
    rounded = native(network, case.window, level)
    everything = case.items
    found, precise = (
        by_item(model.recommend(items_BT, everything, False, keep_BL)) for model in (rounded, exact)
    )
    with torch.inference_mode():
        history = embed_requests(network, items_BT)
        decision = KeepDecision(torch.from_numpy(keep_BL).float(), None)
        with RoundedProducts():
            x_TBD = network.encode(history, decision, "gathered")
        expected = network.head(x_TBD[-1], lambda x, s: s.columns(x, 0, s.num_items)).numpy()
    scale = np.abs(precise).max()
    error = np.sqrt(np.mean((found - expected) ** 2)) / scale
    rounding = np.sqrt(np.mean((precise - expected) ** 2)) / scale
    assert 1e-4 < rounding < 0.02  # the control: rounding is felt
    assert error < 0.25 * rounding
    own_BL = rounded.recommend(items_BT, 1, False).keep_BL
    assert (own_BL == keep_BL).all()  # the policy stays in float32


def by_item(answer: Answer) -> Any:
    scores_BV = np.zeros_like(answer.scores_BK)
    np.put_along_axis(scores_BV, answer.items_BK - 1, answer.scores_BK, 1)
    return scores_BV


class RoundedProducts(TorchFunctionMode):
    """Rounds the operands of the products of blocks to bf16; sums stay in float32."""

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        def rounded(x: Tensor) -> Tensor:
            return x.bfloat16().float()

        if function in (torch.mm, torch.addmm, Tensor.addmm_):
            *first, a, b = args
            args = (*first, rounded(a), rounded(b))
        return function(*args, **(kwargs or {}))
