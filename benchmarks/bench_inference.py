"""Measures the native executor: blocks against bare products, skipping, policy, head, and peers.

Both sides of a ratio run in turns in one process. Histories fill the window, and both sides compute
the last position alone. Batch 1 is told by the CPU time of one thread and by the clock, larger
batches by the clock. OpenVINO is the extra `bench`, ONNX Runtime the extra `onnx`; without them
their rows are printed as not run.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from pairing import conditions
from torch import Tensor, nn

from skiprec.config.model import ModelConfig
from skiprec.inference.executor import recommend
from skiprec.inference.native.from_network import NativeNetwork, flat_histories
from skiprec.inference.native.library import BF16_LEVELS, bf16_levels, levels
from skiprec.network import SkipRecNetwork
from skiprec.policy.kinds import policy_section
from skiprec.ranking import top_items
from skiprec.scores import DotProduct

WINDOW, TOP, ROUNDS = 20, 20, 15
Arm = Callable[[], object]


@dataclass
class Table:
    """Lines of results, and whether all bounds hold."""

    lines: list[str] = field(default_factory=list)
    failed: bool = False

    def add(self, what: str, value: float, bound: float, is_least: bool, more: str = "") -> None:
        """A ratio that must be at least, or at most, `bound`."""
        holds = value >= bound if is_least else value <= bound
        self.failed |= not holds
        sign = ">=" if is_least else "<="
        line = (
            f"| {what} | {value:.3f} | {sign} {bound} | {'ok' if holds else 'NOT HELD'} | {more} |"
        )
        self.lines.append(line)
        print(line, flush=True)

    def note(self, what: str, text: str) -> None:
        """A row without a number."""
        self.lines.append(f"| {what} | | | {text} | |")
        print(self.lines[-1], flush=True)


def in_turns(
    arms: dict[str, Arm], clock: Callable[[], float], calls: int
) -> dict[str, list[float]]:
    """Seconds a call of each arm in each round; an arm runs `calls` times in a row."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for index in range(-2, ROUNDS):
        for name, arm in arms.items():
            started = clock()
            for _ in range(calls):
                arm()
            if index >= 0:
                seconds[name].append((clock() - started) / calls)
    return seconds


def middle(values: list[float]) -> float:
    return statistics.median(values)


def ratio(seconds: dict[str, list[float]], above: str, below: str) -> float:
    return middle([a / b for a, b in zip(seconds[above], seconds[below], strict=True)])


class Native:
    """A network of random weights in the native executor, with requests that fill the window."""

    def __init__(
        self,
        blocks: int,
        width: int,
        items: int,
        batch: int,
        threads: int = 1,
        level: str | None = None,
        reads_after: int | None = None,
    ):
        model = ModelConfig(num_blocks=blocks, width=width)
        policy = policy_section("gumbel", initial_keep_prob=0.5, reads_after=reads_after)
        self.network = SkipRecNetwork(model, policy, items)
        self.network.reset_parameters(0)
        with torch.no_grad():
            for name, weight in self.network.named_parameters():
                if name.endswith("scale"):
                    weight.fill_(0.1)
                elif name == "policy.head.linear.weight":
                    weight.normal_(generator=torch.Generator().manual_seed(1))
        self.network.eval()
        self.native = NativeNetwork(self.network, WINDOW, level)
        draw = np.random.default_rng(batch)
        self.items_BT = torch.from_numpy(draw.integers(1, items + 1, (batch, WINDOW)))
        self.item_N, self.end_B = flat_histories(self.items_BT)
        self.blocks, self.batch, self.threads = blocks, batch, threads
        self.draw = draw

    def kept(self, share: float) -> np.ndarray:
        """Decisions that keep this share of the blocks, each row others."""
        place_BL = self.draw.random((self.batch, self.blocks)).argsort(1)
        return place_BL < round(share * self.blocks)

    def run_blocks(self, keep_BL: np.ndarray | None, setting: float = 0.0) -> Arm:
        return partial(
            self.native.model.run_blocks, self.item_N, self.end_B, keep_BL, setting, self.threads
        )

    def answer(self, keep_BL: np.ndarray | None, setting: float = 0.0) -> Arm:
        return partial(
            self.native.model.recommend,
            *(self.item_N, self.end_B, TOP, False, keep_BL, setting),
            threads=self.threads,
        )

    def setting_of(self, share: float) -> float:
        """A threshold of the policy with which it keeps this share of the blocks."""
        low, high = -50.0, 50.0
        for _ in range(50):
            setting = (low + high) / 2
            if self.run_blocks(None, setting)().mean() > share:  # type: ignore[attr-defined]
                low = setting
            else:
                high = setting
        return high

    @property
    def calls(self) -> int:
        """Calls of a round, about 20 ms of them."""
        started = time.perf_counter()
        self.answer(None)()
        return max(1, int(0.02 / (time.perf_counter() - started)))


def blocks_against_products(table: Table, width: int, batch: int, bound: float) -> None:
    """A block against two bare products of the same rows with its two matrices."""
    blocks = 16
    model = Native(blocks, width, 1000, batch)
    x = torch.randn(batch * WINDOW, 3 * width)
    matrices = [torch.randn(3 * width, width) for _ in range(2 * blocks)]

    def products() -> None:
        for matrix in matrices:
            x @ matrix

    all_BL, none_BL = np.ones((batch, blocks), bool), np.zeros((batch, blocks), bool)
    arms = {
        "full": model.run_blocks(all_BL),
        "none": model.run_blocks(none_BL),
        "products": products,
    }
    seconds = in_turns(arms, time.process_time, model.calls)
    zipped = zip(seconds["full"], seconds["none"], seconds["products"], strict=True)
    value = middle([(full - none) / bare for full, none, bare in zipped])
    more = f"{(middle(seconds['full']) - middle(seconds['none'])) / blocks * 1e6:.1f} us a block"
    table.add(f"block / two bare products, width {width}, batch {batch}", value, bound, False, more)


def skipping(table: Table, blocks: int, batch: int, keep: float) -> None:
    """Blocks alone, full over kept, as a share of the ideal 1 / keep."""
    model = Native(blocks, 64, 1000, batch)
    keep_BL = model.kept(keep)
    arms = {
        "full": model.run_blocks(np.ones_like(keep_BL)),
        "kept": model.run_blocks(keep_BL),
        "none": model.run_blocks(np.zeros_like(keep_BL)),
    }
    clock = time.process_time if batch == 1 else time.perf_counter
    seconds = in_turns(arms, clock, model.calls)
    zipped = zip(seconds["full"], seconds["kept"], seconds["none"], strict=True)
    value = middle([(full - none) / (kept - none) for full, kept, none in zipped])
    share = value * float(keep_BL.mean())
    what = f"blocks full / kept, share of 1 / keep, {blocks} blocks, keep {keep}, batch {batch}"
    table.add(what, share, 1.0, True, f"{value:.2f}x")


def bf16(table: Table, width: int, batch: int) -> None:
    """All blocks in float32 and in bf16, which has no bound: lists differ, so it is a choice."""
    blocks = 64 * 64 // width
    all_BL = np.ones((batch, blocks), bool)
    arms = {
        level: Native(blocks, width, 1000, batch, level=level).run_blocks(all_BL)
        for level in (levels()[0], *bf16_levels())
    }
    seconds = in_turns(arms, time.process_time, 1 if batch > 1 else 20)
    for level in BF16_LEVELS:
        what = f"blocks, float32 / {level}, width {width}, batch {batch}, CPU time"
        found = level in arms
        table.note(what, f"{ratio(seconds, levels()[0], level):.2f}x" if found else "not run here")


def end_to_end(table: Table, items: int, batch: int, bound: float, threads: int = 1) -> None:
    """64 blocks with the policy at keep 0.4, against the full backbone in the same executor."""
    model = Native(64, 64, items, batch, threads)
    setting = model.setting_of(0.4)
    all_BL = np.ones((batch, model.blocks), bool)
    own_BL = model.run_blocks(None, setting)()
    arms = {
        "full": model.answer(all_BL),
        "policy": model.answer(None, setting),
        "given": model.answer(own_BL),  # type: ignore[arg-type]
        "no blocks": model.answer(~all_BL),
    }
    clocks = {"clock": time.perf_counter}
    if batch == 1:
        clocks = {"CPU time": time.process_time} | clocks
    for name, clock in clocks.items():
        seconds = in_turns(arms, clock, model.calls)
        value = ratio(seconds, "full", "policy")
        fixed = ratio(seconds, "no blocks", "full")
        amdahl = 1 / (fixed + (1 - fixed) * float(np.mean(own_BL)))  # type: ignore[arg-type]
        what = f"end to end, policy / full, 64 blocks, {items:,} items, batch {batch}, "
        what += f"{threads} thread(s), {name}"
        table.add(what, value, bound, True, f"Amdahl {amdahl:.2f}x")
        if (threads == 1 and name != "clock") or batch > 1:
            share = 1 - 1 / ratio(seconds, "policy", "given")
            table.add(
                f"policy's share of the time, {items:,} items, batch {batch}", share, 0.02, False
            )


def early_state(table: Table, items: int, batch: int) -> None:
    """A policy that reads the state after two of 64 blocks, at keep 0.4: what it adds in time.

    Its decisions, given to the same call, are the reference.
    """
    model = Native(64, 64, items, batch, reads_after=2)
    setting = model.setting_of(0.4)
    own_BL = model.run_blocks(None, setting)()
    arms = {"policy": model.answer(None, setting), "given": model.answer(own_BL)}  # type: ignore[arg-type]
    clock = time.process_time if batch == 1 else time.perf_counter
    share = 1 - 1 / ratio(in_turns(arms, clock, model.calls), "policy", "given")
    what = f"share of the time, policy on an early state, 64 blocks, {items:,} items, batch {batch}"
    table.add(what, share, 0.005, False, f"keep {float(np.mean(own_BL)):.2f}")  # type: ignore[arg-type]


class EagerConvs(nn.Module):
    """NextItNet+ as it is commonly written: Conv1d, LayerNorm, relu."""

    def __init__(self, blocks: int, width: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, 3, dilation=(1, 4)[index // 2 % 2] * (1 + index % 2))
            for index in range(2 * blocks)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * blocks))
        self.scales = nn.ParameterList(torch.full((1,), 0.1) for _ in range(blocks))

    def forward(self, x_BTD: Tensor) -> Tensor:
        for block, scale in enumerate(self.scales):
            h_BTD = x_BTD
            for place in (2 * block, 2 * block + 1):
                conv = self.convs[place]
                padded = nn.functional.pad(h_BTD.transpose(1, 2), (2 * conv.dilation[0], 0))
                h_BTD = self.norms[place](conv(padded).transpose(1, 2)).relu()
            x_BTD = x_BTD + scale * h_BTD
        return x_BTD


def eager(table: Table) -> None:
    """The whole request in eager PyTorch, written as usual, against the native executor."""
    model = Native(16, 64, 4000, 1)
    convs, network = EagerConvs(16, 64).eval(), model.network

    @torch.inference_mode()
    def usual() -> object:
        x_BTD = convs(network.embedding.table(model.items_BT))
        scores_BV = x_BTD[:, -1] @ network.head.weight_VD.t() + network.head.bias_V
        return scores_BV.topk(TOP)

    all_BL = np.ones((1, 16), bool)
    ours = partial(recommend, network, model.items_BT, TOP, False, lambda *_: None)
    arms = {"usual": usual, "ours": ours, "native": model.answer(all_BL)}
    for name, clock in (("CPU time", time.process_time), ("clock", time.perf_counter)):
        seconds = in_turns(arms, clock, 5)
        what = f"eager Conv1d / native, 16 blocks, 4,000 items, batch 1, all blocks, {name}"
        more = f"{ratio(seconds, 'ours', 'native'):.1f}x against our PyTorch executor"
        table.add(what, ratio(seconds, "usual", "native"), 20, True, more)


def head(table: Table, items: int) -> None:
    """The exact 20 best items against PyTorch's head, batch 1."""
    model = Native(1, 64, items, 1)
    weight_VD, bias_V = model.network.head.weight_VD.detach(), model.network.head.bias_V.detach()
    scores, x_BD = DotProduct(weight_VD, bias_V), torch.randn(1, 64)
    none_BL = np.zeros((1, 1), bool)
    with torch.inference_mode():
        arms = {
            "torch": lambda: top_items(x_BD, scores, k=TOP, seen_BT=None),
            "native": model.answer(none_BL),
        }
        seconds = in_turns(arms, time.process_time, max(1, 100_000 // items))
    what = f"exact top 20 of {items:,}, PyTorch's head / native, batch 1"
    table.add(what, ratio(seconds, "torch", "native"), 3, True, "the call from Python included")


def peers(table: Table, blocks: int) -> None:
    """The full backbone without a head in OpenVINO and ONNX Runtime, float32, one thread."""
    model = Native(blocks, 64, 1000, 1)
    all_BL, none_BL = np.ones((1, blocks), bool), np.zeros((1, blocks), bool)
    full, none = model.run_blocks(all_BL), model.run_blocks(none_BL)
    backbone, x_BTD = EagerConvs(blocks, 64).eval(), torch.randn(1, WINDOW, 64)
    found: dict[str, tuple[Arm, float]] = {}
    if importlib.util.find_spec("openvino"):
        import openvino

        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        converted = openvino.convert_model(backbone, example_input=x_BTD)
        converted.reshape([1, WINDOW, 64])
        request = openvino.compile_model(converted, "CPU", settings).create_infer_request()
        array = x_BTD.numpy()
        found["OpenVINO"] = (lambda: request.infer([array]), 2.5)
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript"):
        import io

        import onnxruntime

        file = io.BytesIO()
        torch.onnx.export(backbone, (x_BTD,), file, dynamo=False, opset_version=17)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file.getvalue(), options)
        name = session.get_inputs()[0].name
        inputs = {name: x_BTD.numpy()}
        found["ONNX Runtime"] = (lambda: session.run(None, inputs), 3.0)
    for peer, bound in (("OpenVINO", 2.5), ("ONNX Runtime", 3.0)):
        what = f"full backbone, {peer} / native, {blocks} blocks, batch 1, CPU time"
        if peer not in found:
            table.note(what, "not run: install the extras bench and onnx")
            continue
        arms = {"peer": found[peer][0], "full": full, "none": none}
        seconds = in_turns(arms, time.process_time, 20)
        zipped = zip(seconds["peer"], seconds["full"], seconds["none"], strict=True)
        value = middle([other / (own - nothing) for other, own, nothing in zipped])
        table.add(what, value, bound, True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rows, to try the script")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    table = Table()
    print(f"{conditions()}, {levels()[0]}, window {WINDOW}, {ROUNDS} rounds in turns\n")
    print("| what | ratio | bound | | |\n|---|---:|---:|---|---|")
    blocks_against_products(table, 64, 1, 0.75)
    end_to_end(table, 4000, 1, 2.2)
    if quick:
        return 0
    for width in (64, 256):
        for batch in (64, 256):
            blocks_against_products(table, width, batch, 0.85)
    for width in (64, 256):
        for batch in (1, 64):
            bf16(table, width, batch)
    for blocks in (16, 64):
        peers(table, blocks)
    for batch in (1, 64, 256):
        for keep in (0.4, 0.5):
            skipping(table, 64, batch, keep)
    end_to_end(table, 4000, 256, 2.2)
    end_to_end(table, 54_000, 1, 1.85)
    end_to_end(table, 54_000, 256, 2.0)
    for items in (4000, 54_000):
        for batch in (1, 256):
            early_state(table, items, batch)
    eager(table)
    head(table, 54_000)
    head(table, 1_000_000)
    torch.set_num_threads(2)
    for items, batch, bound in ((4000, 1, 2.2), (4000, 256, 2.2), (54_000, 256, 2.0)):
        end_to_end(table, items, batch, bound, threads=2)
    return int(table.failed)


if __name__ == "__main__":
    sys.exit(main())
