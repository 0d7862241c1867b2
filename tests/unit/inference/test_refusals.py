"""What comes from outside and is wrong is refused with the reason; nothing crashes."""

from typing import Any

import numpy as np
import pytest

from skiprec.inference.native.library import Lists, NativeModel, Shape, levels, open_library
from tests.testkit.native import native_library

GOOD = {"items": 5, "width": 4, "blocks": 2, "window": 3}
NUM_WEIGHTS = 5 * 4 + 2 * (2 * (3 * 16 + 12) + 1) + 5 * 4 + 5


def load(weights: int | Any = NUM_WEIGHTS, level: str | None = None, **changes: Any) -> NativeModel:
    if isinstance(weights, int):
        weights = np.ones(weights, np.float32)
    lists = Lists(
        changes.pop("dilations", (1, 2)),
        changes.pop("set_sizes", ()),
        changes.pop("exit_depths", ()),
    )
    shape = Shape(**(GOOD | changes))
    return NativeModel(shape, lists, weights, level, native_library())


TWO_EXITS = {"norms": 2, "weights": NUM_WEIGHTS + 4 * 4}
SETS = {"rule": 3, "policy_width": 4, "sets": 2, "reads_after": 1}
SETS["weights"] = NUM_WEIGHTS + (4 + 2) * 4 + (4 + 1) * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": NUM_WEIGHTS - 1}, f"found {NUM_WEIGHTS - 1} weights; .* needs {NUM_WEIGHTS}"),
        ({"weights": 0}, "found 0 weights"),
        ({"weights": np.full(NUM_WEIGHTS, np.nan, np.float32)}, "weight 0 of .* is not finite"),
        ({"width": 0}, "width is 0; expected 1 to"),
        ({"width": -3}, "width is -3"),
        ({"width": 2**30}, "width is 1073741824"),
        ({"width": 5}, "found .* weights; this shape needs"),
        ({"items": 2**31 - 1}, "items is 2147483647"),
        ({"items": 2**27, "width": 4096}, "found .* weights"),
        ({"blocks": 0}, "blocks is 0"),
        ({"window": 2**30}, "window is"),
        ({"backbone": 7}, "backbone is 7"),
        ({"rule": 9}, "rule is 9"),
        ({"rule": 1}, "policy_width is 0"),
        ({"rule": 3, "policy_width": 4}, "sets is 0"),
        ({"backbone": 1, "heads": 3, "positions_table": 3}, "4 does not divide into 3 heads"),
        ({"backbone": 1, "heads": 2, "positions_table": 2}, "positions_table is 2; expected 3"),
        ({"dilations": (1, 0)}, "a dilation of 0"),
        ({"dilations": (1,)}, "a dilation of 0"),
        ({"norms": 3}, "norms is 3; expected 0 to 2"),
        ({**TWO_EXITS, "exit_depths": (2, 2)}, "exit 1 has 2 blocks; expected rising"),
        ({**TWO_EXITS, "exit_depths": (1,)}, "exit 1 has 0 blocks"),
        ({**TWO_EXITS, "exit_depths": (0, 2)}, "exit 0 has 0 blocks"),
        ({"norms": 1, "weights": NUM_WEIGHTS + 8, "exit_depths": (1,)}, "exit 0 has 1 blocks"),
        ({"reads_after": 1}, "reads_after is 1; expected 0 to 0"),
        ({"readout_width": 3}, "readout_width is 3; expected 0 to 0"),
        ({**TWO_EXITS, "readout_width": -1}, "readout_width is -1; expected 0 to"),
        ({**TWO_EXITS, "readout_width": 3, "exit_depths": (1, 2)}, "found .* weights; this shape"),
        ({**SETS, "reads_after": 2}, "reads_after is 2; expected 0 to 1"),
        ({**SETS, "policy_has_table": 1}, "policy_has_table is 1; expected 0 to 0"),
        ({**SETS, "set_sizes": (0, 2)}, "set 0 has 0 blocks; expected rising numbers from 1 on"),
        ({**SETS, "set_sizes": (1, 3)}, "set 1 has 3 blocks; .* the last is 2"),
        ({**SETS, "set_sizes": (1,)}, "set 1 has 0 blocks"),
        ({"level": "sse9"}, "no level sse9"),
    ],
)
def test_a_wrong_model_is_refused(changes: dict[str, Any], message: str) -> None:
    load()  # control: what the cases change is fine before
    load(**TWO_EXITS, exit_depths=(1, 2))
    load(**SETS, set_sizes=(1, 2))
    with pytest.raises(ValueError, match=message):
        load(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k is 0; expected 1 to"),
        ({"k": -1}, "k is -1"),
        ({"k": 1_000_000}, "k is 1000000; expected 1 to 10000"),
        ({"item_N": np.array([1, 0, 2])}, "item id 0; expected 1 to 5"),
        ({"item_N": np.array([1, 6, 2])}, "item id 6"),
        ({"item_N": np.array([-1, 1, 2])}, "item id -1"),
        ({"item_N": np.array([1, 2**32 + 1, 2])}, "item id -1"),
        ({"end_B": np.array([2, 1])}, "history 1 ends before it starts"),
        ({"end_B": np.array([2, 9])}, "behind the last of 3 items"),
        ({"end_B": np.array([-1, 3])}, "history 0 ends before it starts"),
        ({"keep_BL": np.ones((2, 3), bool)}, r"expected decisions of shape \(2, 2\)"),
        ({"allowed_V": np.ones(4, bool)}, "one flag for each of 5 items"),
    ],
)
def test_a_wrong_request_is_refused(changes: dict[str, Any], message: str) -> None:
    model = load()
    request: dict[str, Any] = {"item_N": np.array([1, 5, 2]), "end_B": np.array([2, 3]), "k": 2}
    assert model.recommend(**request).items_BK.shape == (2, 2)
    with pytest.raises(ValueError, match=message):
        model.recommend(**request | changes)


def test_levels_are_named_best_first() -> None:
    assert levels(native_library())[-1] == "generic"
    assert open_library(native_library()) is open_library(native_library())
