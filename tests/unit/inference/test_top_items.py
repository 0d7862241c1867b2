"""The lists of the native executor are exact: what sorting all scores gives, ties by item id."""

import numpy as np
import pytest
from numpy.typing import NDArray

from skiprec.inference.native.library import Lists, NativeModel, Shape, levels
from tests.testkit.native import native_library

Floats = NDArray[np.float32]


def head_only(item_VD: Floats, weight_VD: Floats, bias_V: Floats, level: str) -> NativeModel:
    """A model whose one block is never kept, so that the last item's vector meets the head."""
    items, width = item_VD.shape
    block = np.zeros(2 * (3 * width * width + 3 * width) + 1, np.float32)
    weights = [item_VD.ravel(), block, weight_VD.ravel(), bias_V]
    shape = Shape(items=items, width=width, blocks=1, window=4)
    return NativeModel(shape, Lists((1,)), np.concatenate(weights), level, native_library())


def tables(kind: str, items: int, width: int) -> tuple[Floats, Floats, Floats]:
    generator = np.random.default_rng(items + width)
    item_VD, weight_VD = generator.normal(size=(2, items, width)).astype(np.float32)
    bias_V = generator.normal(size=items).astype(np.float32)
    match kind:
        case "ties":  # each vector stands there many times
            weight_VD, bias_V = weight_VD[np.arange(items) % 7], bias_V[np.arange(items) % 7]
        case "near ties":  # scores differ in the last bits alone
            weight_VD = weight_VD[:1] * (1 + np.arange(items)[:, None] * np.float32(2e-7))
            bias_V = np.zeros(items, np.float32)
        case "unlike sizes":
            weight_VD *= 10.0 ** generator.uniform(-6, 6, (items, 1)).astype(np.float32)
        case "zeros":
            item_VD[:] = weight_VD[: items // 2] = 0
        case "one large channel":
            item_VD[:, 0], weight_VD[:, -1] = 1e4, 1e4
        case "large biases":
            bias_V *= 1e5
    return item_VD, np.ascontiguousarray(weight_VD, np.float32), bias_V


KINDS = ("plain", "ties", "near ties", "unlike sizes", "zeros", "one large channel", "large biases")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("items", "width"), [(1, 1), (15, 3), (17, 16), (500, 50), (3001, 64)])
@pytest.mark.parametrize("level", ["avx512_vnni", "avx512", "avx2", "generic"])
def test_lists_are_exact(level: str, items: int, width: int, kind: str) -> None:
    if level not in levels(native_library()):
        pytest.skip(f"this processor has no {level}")
    item_VD, weight_VD, bias_V = tables(kind, items, width)
    model = head_only(item_VD, weight_VD, bias_V, level)
    generator = np.random.default_rng(1)
    rows, k = 21, min(20, items)
    history = generator.integers(1, items + 1, (rows, 4)).astype(np.int32)
    allowed_V = generator.random(items) < 0.5
    allowed_V[0] = True
    score_RV = model.scores(item_VD[history[:, -1] - 1])
    exact = item_VD[history[:, -1] - 1].astype(np.float64) @ weight_VD.T.astype(np.float64) + bias_V
    size = np.abs(item_VD[history[:, -1] - 1]) @ np.abs(weight_VD.T) + np.abs(bias_V)
    assert (np.abs(score_RV - exact) <= 2e-7 * (width + 8) * size).all()
    for excludes, allowed in ((False, None), (True, None), (False, allowed_V), (True, allowed_V)):
        answer = model.recommend(
            history.ravel(),
            4 * np.arange(1, rows + 1),
            k,
            excludes,
            np.zeros((rows, 1), bool),
            allowed_V=allowed,
        )
        for row in range(rows):
            may_V = np.ones(items, bool) if allowed is None else allowed.copy()
            if excludes:
                may_V[history[row] - 1] = False
            place_V = np.lexsort((np.arange(items), -score_RV[row]))
            best = place_V[may_V[place_V]][:k]
            missing = k - len(best)
            assert answer.items_BK[row].tolist() == [*(best + 1), *[0] * missing]
            assert answer.scores_BK[row].tolist() == [*score_RV[row][best], *[-np.inf] * missing]


def test_a_bound_that_is_too_small_would_be_seen() -> None:
    """Control: among near ties the int8 scores alone give other lists."""
    item_VD, weight_VD, _ = tables("near ties", 500, 50)
    step_V = np.abs(weight_VD).max(1) / 127
    coded = np.rint(weight_VD / step_V[:, None]) * step_V[:, None]
    rough = np.argsort(-(coded @ item_VD[0]), kind="stable")[:20]
    fine = np.argsort(-(weight_VD @ item_VD[0]), kind="stable")[:20]
    assert rough.tolist() != fine.tolist()
