"""Exported ONNX graphs say what PyTorch says, for every backbone and policy that is exported."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from skiprec.inference import Recommender, to_onnx
from skiprec.inference.saved_model import read_saved_model
from skiprec.inference.to_onnx import BACKBONE, POLICY, write_onnx
from skiprec.ranking import top_items
from tests.testkit.exports import IDS, WINDOW, export_small_model
from tests.testkit.networks import NUM_ITEMS, build_network, model_config, policy_config

# Every kind of block and of decision; an export takes seconds, and each one is checked by itself.
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "cost": ("nextitnet_plus", "cost", {}, {}),
    "gumbel": ("sasrec_plus", "gumbel", {}, {}),
    "exits and an early state": (
        "nextitnet_plus",
        "cost",
        {"exits": (1, 2, 4)},
        {"reads_after": 1},
    ),
    "exits that add up": (
        "nextitnet_plus",
        "cost",
        {"exits": (1, 2, 4), "exit_readouts": True},
        {"reads_after": 1},
    ),
}


def some_histories(rows: int) -> list[Any]:
    draw = np.random.default_rng(3)
    lengths = draw.integers(1, WINDOW + 1, rows)
    return [draw.integers(1, NUM_ITEMS + 1, length).astype(np.int32) for length in lengths]


def padded(rows: list[Any]) -> Any:
    items_BT = np.zeros((len(rows), WINDOW), np.int64)
    for row, history in zip(items_BT, rows, strict=True):
        row[WINDOW - len(history) :] = history
    return items_BT


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_graphs_say_what_pytorch_says(tmp_path: Path, case: str) -> None:
    backbone, kind, model, policy = CASES[case]
    network = build_network(model_config(backbone, **model), policy_config(kind, **policy)).eval()
    names = write_onnx(network, WINDOW, some_histories(5), tmp_path)
    assert names == [BACKBONE, POLICY]
    items_BT = padded(some_histories(100))  # other rows, and more of them, than it was written with
    session = onnxruntime.InferenceSession(str(tmp_path / BACKBONE))
    (score_BV,) = session.run(["scores"], {"items": items_BT})
    rows = torch.from_numpy(items_BT)
    with torch.inference_mode():
        history = network.embed(rows, rows.sum(1))
        x_TBD = network.encode(history, None, "dense")
        best_BK, best_scores_BK = network.head(x_TBD[-1], lambda x, s: top_items(x, s, k=5))
    found = np.take_along_axis(score_BV, best_BK.numpy() - 1, 1)
    assert found == pytest.approx(best_scores_BK.numpy(), abs=1e-5)
    assert score_BV.max(1) == pytest.approx(found[:, 0], abs=1e-5)
    decision = onnxruntime.InferenceSession(str(tmp_path / POLICY))
    (keep_BL,) = decision.run(["keep"], {"items": items_BT})
    with torch.inference_mode():
        expected = network.decide(history)
    assert expected is not None
    assert (keep_BL == (expected.keep_BL > 0).numpy()).all()
    assert 0 < keep_BL.mean() < 1


@pytest.mark.slow
def test_a_graph_that_says_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network(model_config("nextitnet_plus"), policy_config("fixed")).eval()
    write = to_onnx._write

    def write_something_else(module: nn.Module, *rest: Any) -> None:
        bias_V = network.head.bias_V
        with torch.no_grad():
            bias_V += 1
            write(module, *rest)
            bias_V -= 1

    monkeypatch.setattr(to_onnx, "_write", write_something_else)
    with pytest.raises(ValueError, match=r"backbone\.onnx differs by 1"):
        write_onnx(network, WINDOW, some_histories(5), tmp_path)


@pytest.mark.slow
def test_an_export_holds_them_under_its_checksums(tmp_path: Path) -> None:
    export_small_model(tmp_path / "model", with_onnx=True)
    assert Recommender.load(tmp_path / "model", executor="numpy").recommend([[IDS[0]]], k=1)
    (tmp_path / "model" / POLICY).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"policy\.onnx is damaged"):
        read_saved_model(tmp_path / "model")


def test_a_missing_package_is_named_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "PACKAGES", ("onnx", "none_such"))
    with pytest.raises(ValueError, match=r"none_such: pip install 'skiprec\[onnx\]'"):
        export_small_model(tmp_path / "model", with_onnx=True)
    assert not list(tmp_path.iterdir())
