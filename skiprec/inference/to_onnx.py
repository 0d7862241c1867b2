"""Writes a network as ONNX graphs for other runtimes, and checks them in ONNX Runtime.

    backbone.onnx   items [rows, window] -> scores [rows, catalogue], with all blocks
    policy.onnx     items [rows, window] -> keep [rows, blocks], and what it was decided by

`items` are int64 numbers of the catalogue, 1 for the first row of `items.arrow`, with zeros on the
left of shorter histories. A graph cannot skip a block for one row alone: the graphs are for
programs that already run ONNX, and the native executor is faster.
"""

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skiprec.inference.executor import embed_requests
from skiprec.network import SkipRecNetwork
from skiprec.scores import Scores

BACKBONE, POLICY = "backbone.onnx", "policy.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3  # of scores, relative to the largest; sums are in another order
ROWS = 64  # that are compared


class _AllScores(nn.Module):
    """The scores of all items after all blocks."""

    def __init__(self, network: SkipRecNetwork):
        super().__init__()
        self.network = network

    def forward(self, items_BT: Tensor) -> Tensor:
        x_BD = self.network.encode_last(embed_requests(self.network, items_BT), None, "dense")

        def all_columns(x_BD: Tensor, scores: Scores) -> Tensor:
            return scores.columns(x_BD, 0, scores.num_items)

        score_BV: Tensor = self.network.head(x_BD, all_columns)
        return score_BV


class _Decision(nn.Module):
    """The policy's decision, and its probabilities of blocks or its costs of sets."""

    def __init__(self, network: SkipRecNetwork):
        super().__init__()
        self.network = network

    def forward(self, items_BT: Tensor) -> tuple[Tensor, Tensor]:
        decision = self.network.decide(embed_requests(self.network, items_BT))
        assert decision is not None
        by = decision.prob_BL if decision.cost_BM is None else decision.cost_BM
        assert by is not None
        return decision.keep_BL > 0, by


def refuse_without_packages() -> None:
    """Raises ValueError if a package that ONNX needs is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"--onnx needs the package(s) {', '.join(missing)}: pip install 'skiprec[onnx]'"
        )


def write_onnx(
    network: SkipRecNetwork, window: int, histories: list[NDArray[np.int32]], folder: Path
) -> list[str]:
    """Writes the graphs into `folder`; returns their names. `policy.onnx` is for a learned policy.

    Args:
        network: in evaluation mode, on the CPU.
        histories: rows on which ONNX Runtime must say what PyTorch says.

    Raises:
        ValueError: a package is missing, the network reads times, or ONNX Runtime does not
            reproduce PyTorch's numbers.
    """
    refuse_without_packages()
    if network.model_config.time is not None:
        raise ValueError(
            f"the ONNX graphs read items alone, and model.time={network.model_config.time!r} reads "
            "times; export a network without model.time"
        )
    items_BT = np.zeros((min(ROWS, len(histories)), window), np.int64)
    for row, history in zip(items_BT, histories, strict=False):
        recent = history[-window:]
        row[window - len(recent) :] = recent
    is_learned = network.policy is not None and network.policy.linear_rule is not None
    graphs: dict[str, tuple[nn.Module, list[str]]] = {BACKBONE: (_AllScores(network), ["scores"])}
    if is_learned:
        graphs[POLICY] = (_Decision(network), ["keep", "by"])
    for name, (module, outputs) in graphs.items():
        _write(module.eval(), torch.from_numpy(items_BT), outputs, folder / name)
        _check(module, items_BT, folder / name)
    return list(graphs)


def _write(module: nn.Module, items_BT: Tensor, outputs: list[str], path: Path) -> None:
    rows = torch.export.Dim("rows", min=1)
    example_BT = items_BT[:2] if len(items_BT) > 1 else items_BT.repeat(2, 1)  # 1 would stay fixed
    was = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torch tells of operators that other packages lack
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (example_BT,),
                str(path),
                input_names=["items"],
                output_names=outputs,
                dynamic_shapes=({0: rows},),
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    finally:
        logging.disable(was)


def _check(module: nn.Module, items_BT: NDArray[np.int64], path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = session.run(None, {"items": items_BT})
    with torch.no_grad():
        given = module(torch.from_numpy(items_BT))
    expected = [given] if isinstance(given, Tensor) else list(given)
    for ours, theirs in zip(expected, found, strict=True):
        own = ours.numpy()
        if own.dtype == np.bool_:
            apart = float((own != theirs).mean())
            limit = TOLERANCE  # decisions at the very threshold may fall otherwise
        else:
            apart = float(np.abs(own - theirs).max())
            limit = TOLERANCE * max(1.0, float(np.abs(own).max()))
        if not apart <= limit:
            raise ValueError(
                f"ONNX Runtime does not reproduce the network: {path.name} differs by {apart:.2g}, "
                f"expected at most {limit:.2g}; leave out --onnx, and please report it"
            )
