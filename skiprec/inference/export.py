"""Writes a trained network as a folder that `Recommender` loads without torch."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from skiprec.data.halves import SomeRows
from skiprec.data.shards import ShardSet
from skiprec.durable import make_folder
from skiprec.inference.executor import embed_requests
from skiprec.inference.native.from_network import (
    dilations_of,
    exit_depths_of,
    rule_of,
    shape_of,
    weights_of,
    why_not_native,
    why_policy_not_native,
)
from skiprec.inference.native.library import SHAPE_FIELDS, Answer, NativeModel
from skiprec.inference.native.pack import pack_weights
from skiprec.inference.native.places import find_library
from skiprec.inference.recommender import Recommender
from skiprec.inference.reference import ReferenceModel
from skiprec.inference.saved_model import (
    ITEMS,
    MODEL,
    SELF_TEST,
    WEIGHTS,
    CurvePoint,
    ModelSpec,
    SavedModel,
    write_manifest,
)
from skiprec.inference.to_onnx import refuse_without_packages, write_onnx
from skiprec.network import SkipRecNetwork
from skiprec.policy.prices import price_for, shares_between
from skiprec.types import PADDING

CURVE_POINTS = 17
SELF_TEST_ROWS = 8


@dataclass(frozen=True)
class Validation:
    """Rows on which the operating curve is measured: histories and their next items."""

    histories: list[NDArray[np.int32]]
    target_R: NDArray[np.int32]

    @property
    def flat(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """All items, and where each history ends."""
        ends = np.cumsum([len(one) for one in self.histories], dtype=np.int64)
        return np.concatenate(self.histories), ends


def validation_rows(shards: ShardSet | SomeRows, row_R: NDArray[np.int64]) -> Validation:
    """The histories and targets of some rows."""
    items_RW = shards.take(row_R).items_RW
    histories = [row[:-1][row[:-1] != PADDING] for row in items_RW]
    return Validation(histories, items_RW[:, -1])


def export_model(
    network: SkipRecNetwork,
    name: str,
    window: int,
    items: pa.Table,
    validation: Validation,
    made_by: dict[str, Any],
    output: Path,
    progress: Callable[[str], None],
    with_onnx: bool = False,
) -> ModelSpec:
    """Writes the folder `output`, which must not exist; returns the description of the model.

    Args:
        network: in evaluation mode, on the CPU.
        window: the longest history that the network reads.
        items: the dataset's table of items.
        made_by: run, commit, versions, data, for people.
        with_onnx: whether ONNX graphs are written, too.

    Raises:
        ValueError: `output` exists, the executor does not know the network, or a package for ONNX
            is missing; says what.
    """
    unknown = why_not_native(network) or why_policy_not_native(network)
    if unknown is not None:
        raise ValueError(f"this network cannot be exported: the executors do not know {unknown}")
    if output.exists():
        raise ValueError(f"{output} exists; expected a new folder: choose another --output")
    make_folder(output.parent)
    if with_onnx:
        refuse_without_packages()
    weights = {
        key: np.ascontiguousarray(value.astype(np.float32))
        for key, value in weights_of(network).items()
    }
    shape = shape_of(network, window)
    rule = rule_of(network)
    spec = ModelSpec(
        name=name,
        backbone=network.model_config.backbone,
        policy="none" if network.policy is None else made_by["policy"],
        shape={name: getattr(shape, name) for name in SHAPE_FIELDS},
        dilations=dilations_of(network),
        set_sizes=() if rule is None else rule.set_sizes,
        exit_depths=exit_depths_of(network),
        setting=0.0 if rule is None else rule.setting,
        constant_keep=_constant_keep(network) if rule is None else (),
        curve=(),
        made_by=made_by,
    )
    model = _executor(spec, weights)
    if rule is not None or network.exits is not None:
        what = "exits" if rule is None else "policy"
        progress(f"measuring the {what} on {len(validation.histories):,} validation rows")
        if rule is None:
            curve = measure_exits(network, model, validation)
        else:
            curve = measure_curve(network, model, rule.kind, validation)
        spec = ModelSpec(**{**vars(spec), "curve": curve})
    ids = items["original_id"].to_pylist()
    columns = {"id": items["original_id"], "count": items["train_count"]}
    if "name" in items.column_names:
        columns["name"] = items["name"]
    table = pa.table(columns)
    draft = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        save_file(weights, draft / WEIGHTS)
        with pa.ipc.new_file(str(draft / ITEMS), table.schema) as writer:
            writer.write_table(table)
        (draft / MODEL).write_text(spec.to_json())
        counts = items["train_count"].to_numpy()
        nameless: list[str | None] = [None] * len(ids)
        saved = SavedModel(spec, weights, ids, counts, [], nameless)
        plain = Recommender(saved, executor=_name(model))
        (draft / SELF_TEST).write_text(json.dumps(_self_test(plain, validation, ids), indent=1))
        if with_onnx:
            progress("writing ONNX graphs")
            write_onnx(network, window, validation.histories, draft)
        write_manifest(draft)
        for path, mode in ((draft, 0o755), *((file, 0o644) for file in draft.iterdir())):
            path.chmod(mode)  # drafts and safetensors are private to their owner
        draft.rename(output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return spec


def measure_curve(
    network: SkipRecNetwork,
    model: NativeModel | ReferenceModel,
    rule: str,
    validation: Validation,
) -> tuple[CurvePoint, ...]:
    """The policy at settings that keep some shares of the blocks of these rows, or nearly so.

    They are 1/16, 2/16, …, or for nested sets lie between their sizes.
    """
    numbers_RK = _numbers(network, validation)
    item_N, end_B = validation.flat
    points: dict[float, CurvePoint] = {}
    for share in _curve_shares(network, rule):
        setting = _setting_for(network, rule, numbers_RK, share)
        answer = model.recommend(item_N, end_B, 20, False, None, setting)
        point = _point(answer, setting, validation)
        points.setdefault(point.keep, point)
    return tuple(points[keep] for keep in sorted(points))


def measure_exits(
    network: SkipRecNetwork, model: NativeModel | ReferenceModel, validation: Validation
) -> tuple[CurvePoint, ...]:
    """Every exit, for everyone."""
    item_N, end_B = validation.flat
    points = []
    for depth in exit_depths_of(network):
        keep_BL = np.tile(np.arange(network.num_blocks) < depth, (len(end_B), 1))
        answer = model.recommend(item_N, end_B, 20, False, keep_BL)
        points.append(_point(answer, float(depth), validation))
    return tuple(points)


def _point(answer: Answer, setting: float, validation: Validation) -> CurvePoint:
    hit_RK = answer.items_BK == validation.target_R[:, None]
    mrr = float((hit_RK / np.arange(1, hit_RK.shape[1] + 1)).sum(1).mean())
    return CurvePoint(float(answer.keep_BL.mean()), setting, mrr, float(hit_RK.any(1).mean()))


def _curve_shares(network: SkipRecNetwork, rule: str) -> list[float]:
    if rule == "cheapest_set":
        return shares_between(_sizes(network), CURVE_POINTS)
    return [place / (CURVE_POINTS - 1) for place in range(1, CURVE_POINTS)]


def _sizes(network: SkipRecNetwork) -> torch.Tensor:
    return torch.tensor(network.policy.linear_rule.set_sizes)  # type: ignore[union-attr]


def _setting_for(
    network: SkipRecNetwork, rule: str, numbers_RK: NDArray[np.float32], share: float
) -> float:
    """A setting of the rule with which these rows keep at most a share of the blocks."""
    if rule == "cheapest_set":
        return price_for(torch.from_numpy(numbers_RK), _sizes(network), share)
    return float(np.quantile(numbers_RK, 1 - share, method="higher")) if share < 1 else -1e9


@torch.inference_mode()
def _numbers(network: SkipRecNetwork, validation: Validation) -> NDArray[np.float32]:
    """What the rule compares with its setting: costs of sets, or keep minus skip of each block."""
    window = max(map(len, validation.histories))
    parts = []
    for start in range(0, len(validation.histories), 256):
        some = validation.histories[start : start + 256]
        items_BT = np.zeros((len(some), window), np.int64)
        for row, history in zip(items_BT, some, strict=True):
            row[window - len(history) :] = history
        decision = network.decide(embed_requests(network, torch.from_numpy(items_BT)))
        assert decision is not None
        if decision.cost_BM is not None:
            parts.append(decision.cost_BM.numpy())
        else:
            assert decision.prob_BL is not None
            parts.append(torch.logit(decision.prob_BL, 1e-6).numpy())
    return np.concatenate(parts)


def _constant_keep(network: SkipRecNetwork) -> tuple[bool, ...]:
    """The decision of a policy that is the same for every history; empty without a policy.

    Raises:
        ValueError: the policy's decisions differ between histories in a way of their own.
    """
    if network.policy is None:
        return ()
    some = torch.tensor([[1], [min(2, network.num_items)], [network.num_items]]).repeat(8, 1)
    items_BT = torch.cat([some, some.flip(0)], dim=1)
    with torch.inference_mode():
        decision = network.decide(embed_requests(network, items_BT))
    assert decision is not None
    keep_BL = decision.keep_BL > 0
    if not (keep_BL == keep_BL[:1]).all():
        raise ValueError(
            "this network cannot be exported: its policy decides by chance; it is a control, and "
            "nothing to serve"
        )
    return tuple(keep_BL[0].tolist())


def _executor(spec: ModelSpec, weights: dict[str, Any]) -> NativeModel | ReferenceModel:
    if find_library() is None:
        return ReferenceModel(spec, weights)
    shape = spec.native_shape
    return NativeModel(shape, spec.lists, pack_weights(weights, shape))


def _name(model: NativeModel | ReferenceModel) -> Any:
    return "native" if isinstance(model, NativeModel) else "numpy"


def _self_test(plain: Recommender, validation: Validation, ids: list[str]) -> list[dict[str, Any]]:
    """Some histories of validation rows with their answers, one of them a single item."""
    step = max(1, len(validation.histories) // SELF_TEST_ROWS)
    rows = validation.histories[::step][:SELF_TEST_ROWS]
    rows = [*rows, *(row[-1:] for row in rows[:1])]
    histories = [[ids[number - 1] for number in row] for row in rows]
    answers = plain.recommend(histories, k=10, explain=True)
    pairs = zip(histories, answers, strict=True)
    return [
        {"history": h, "items": a.items, "scores": a.scores, "kept_blocks": a.kept_blocks}
        for h, a in pairs
    ]
