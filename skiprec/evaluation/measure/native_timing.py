"""The timed stages of the native executor, and how well its answers agree with PyTorch's."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skiprec.evaluation.measure.arms import (
    FIXED,
    FULL,
    MASKED,
    ORACLE,
    RANDOM,
    SHALLOW,
    SKIPREC,
    Arm,
    first_blocks,
)
from skiprec.evaluation.measure.scoring import embed_tile
from skiprec.evaluation.measure.tiles import Tile
from skiprec.evaluation.measure.timing import (
    Part,
    Requests,
    Stage,
    TimingPlan,
    TimingSample,
    stage_name,
)
from skiprec.inference.executor import recommend
from skiprec.inference.native.from_network import (
    NativeNetwork,
    flat_histories,
    why_not_native,
    why_policy_not_native,
)
from skiprec.inference.native.library import bf16_levels, levels
from skiprec.inference.native.places import find_library
from skiprec.network import SkipRecNetwork
from skiprec.types import KeepDecision

# Lists differ where sums in another order swap items whose scores are this near, as a share of the
# largest score of the list; and no more lists differ than this share.
NEAR_TIE, FEW_LISTS = 1e-5, 1e-3


def why_no_native_executor(network: SkipRecNetwork, executor: str = "native") -> str | None:
    """Why a network is timed in PyTorch, in words; None if the native executor times it.

    Args:
        executor: `evaluation.executor`.
    """
    if executor in ("torch", "triton"):
        return "asked for"
    if find_library() is None:
        return "the native executor is not built here"
    if executor == "native_bf16" and not bf16_levels():
        return "this processor does not multiply in bf16"
    if network.device.type != "cpu":
        return "the native executor runs on CPUs"
    unknown = why_not_native(network) or why_policy_not_native(network)
    return None if unknown is None else f"the native executor does not know {unknown}"


def describe_native_executor(level: str | None) -> str:
    """The executor and its level, for the conditions of a report."""
    return f"native ({level or levels()[0]})"


def native_stages(
    network: SkipRecNetwork,
    sample: TimingSample,
    plan: TimingPlan,
    batch: int,
    level: str | None = None,
) -> dict[str, Stage]:
    """The stages of `timing.arm_stages` in the native executor; `MASKED` stays in PyTorch.

    "blocks" and "policy" include the look-up of item vectors, and no list.
    """
    window = sample.items_RT.shape[1]
    threads = torch.get_num_threads()
    requests = Requests(network, sample, plan, batch)
    flat = [flat_histories(items_BT) for items_BT in requests.items]
    model = NativeNetwork(network, window, level)
    everything = np.ones((batch, network.num_blocks), np.bool_)

    def stage(model: NativeNetwork, part: Part, keep: Callable[[int], Keep | None]) -> Stage:
        setting = 0.0 if model.rule is None else model.rule.setting

        def run(index: int) -> object:
            place = index % len(flat)
            item_N, end_B = flat[place]
            keep_BL = keep(place)
            if part != "end":
                return model.model.run_blocks(item_N, end_B, keep_BL, setting, threads)
            return model.model.recommend(
                item_N, end_B, plan.k, plan.exclude_seen, keep_BL, setting, None, threads
            )

        return run

    def given(arm: Arm) -> Callable[[int], Keep | None]:
        decisions = [decision.keep_BL.numpy() > 0 for decision in requests.decisions[arm]]
        return lambda place: decisions[place]

    stages = {
        stage_name(FULL, part): stage(model, part, lambda _: everything)
        for part in ("blocks", "end")
    }
    for depth in (network.model_config.exits or ())[:-1]:
        first = np.repeat(first_blocks(depth, network.num_blocks), batch, 0)
        stages |= {
            stage_name(Arm("exit", depth), part): stage(model, part, partial(_same, first))
            for part in PARTS_OF_FIXED
        }
    if network.policy is None:
        return stages
    # A policy that learns nothing decides before the clock starts.
    own = given(SKIPREC) if model.rule is None else lambda _: None
    for arm in (SKIPREC, RANDOM, FIXED):
        stages[stage_name(arm, "blocks")] = stage(model, "blocks", given(arm))
    stages[stage_name(MASKED, "blocks")] = requests.blocks(SKIPREC, "masked")
    stages[stage_name(SKIPREC, "policy")] = stage(model, "policy", own)
    stages[stage_name(SKIPREC, "end")] = stage(model, "end", own)
    for arm, decisions in ((ORACLE, SKIPREC), (RANDOM, RANDOM), (FIXED, FIXED)):
        stages[stage_name(arm, "end")] = stage(model, "end", given(decisions))
    mean_kept = sample.keep_ARL[sample.arms.index(SKIPREC)].sum(1).mean()
    # The same weights in memory as every other arm, so that the caches treat all alike.
    few = np.tile(np.arange(network.num_blocks) < round(float(mean_kept)), (batch, 1))
    for part in ("blocks", "end"):
        stages[stage_name(SHALLOW, part)] = stage(model, part, lambda _: few)
    return stages


Keep = NDArray[np.bool_]
PARTS_OF_FIXED: tuple[Part, ...] = ("blocks", "end")


def _same(keep_BL: Keep, place: int) -> Keep:
    """The same decisions for the batch at every place."""
    return keep_BL


@dataclass(frozen=True)
class Agreement:
    """How the native executor's answers differ from PyTorch's, over some rows.

    Args:
        lists_differ: rows whose lists differ under the same decision.
        largest_gap: the largest difference of two scores at a place where lists differ, as a share
            of the largest score of that list.
        decisions_differ: rows about which the policies decide differently.
        mrr: of the executor's lists: the mean of 1 / place of the target, 0 where it is not listed.
        mrr_pytorch: the same of PyTorch's lists.
    """

    rows: int = 0
    lists_differ: int = 0
    largest_gap: float = 0.0
    decisions_differ: int = 0
    mrr: float = 0.0
    mrr_pytorch: float = 0.0

    def __add__(self, other: "Agreement") -> "Agreement":
        rows = self.rows + other.rows
        share = other.rows / rows if rows else 0.0
        return Agreement(
            rows,
            self.lists_differ + other.lists_differ,
            max(self.largest_gap, other.largest_gap),
            self.decisions_differ + other.decisions_differ,
            self.mrr + share * (other.mrr - self.mrr),
            self.mrr_pytorch + share * (other.mrr_pytorch - self.mrr_pytorch),
        )

    @property
    def is_close(self) -> bool:
        """Whether few lists differ, each by near ties alone."""
        return self.lists_differ <= FEW_LISTS * self.rows and self.largest_gap <= NEAR_TIE


@torch.inference_mode()
def compare_unit(
    network: SkipRecNetwork, native: NativeNetwork, tiles: list[Tile], k: int, exclude_seen: bool
) -> Agreement:
    """The agreement over the real rows of some tiles."""
    total = Agreement()
    for tile in tiles:
        items_BT = tile.batch.input_BT[: tile.num_real].contiguous()
        target_B = tile.batch.items_BW[: tile.num_real, -1].numpy()
        decision = network.decide(embed_tile(network, tile))
        keep_BL, decisions_differ = None, 0
        if decision is not None:
            keep_BL = decision.keep_BL[: tile.num_real].numpy() > 0
            if native.rule is not None:
                own_BL = native.recommend(items_BT, 1, False).keep_BL
                decisions_differ = int((own_BL != keep_BL).any(1).sum())
        found = native.recommend(items_BT, k, exclude_seen, keep_BL)
        items_BK, scores_BK = recommend(
            network, items_BT, k, exclude_seen, lambda *_, given=keep_BL: _decision(given)
        )
        differs_BK = found.items_BK != items_BK.numpy()
        is_item_BK = np.isfinite(scores_BK.numpy())
        differs_BK &= is_item_BK
        expected_BK = np.where(is_item_BK, scores_BK.numpy(), 0)
        gap_BK = np.where(differs_BK, np.abs(found.scores_BK - expected_BK), 0)
        size_B1 = np.abs(expected_BK).max(1, keepdims=True)
        total += Agreement(
            tile.num_real,
            int(differs_BK.any(1).sum()),
            float((gap_BK / np.maximum(size_B1, 1e-30)).max()),
            decisions_differ,
            _mrr(found.items_BK, target_B),
            _mrr(items_BK.numpy(), target_B),
        )
    return total


def _mrr(items_BK: NDArray[Any], target_B: NDArray[Any]) -> float:
    hit_BK = items_BK == target_B[:, None]
    return float((hit_BK / np.arange(1, hit_BK.shape[1] + 1)).sum(1).mean())


def _decision(keep_BL: Keep | None) -> KeepDecision | None:
    return None if keep_BL is None else KeepDecision(torch.from_numpy(keep_BL).float(), None)
