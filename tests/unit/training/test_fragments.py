"""Fragments are read in other parts than they were written, and a missing part is an error."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skiprec.training.fragments import (
    Fragment,
    adam_state,
    load_fragments,
    save_fragments,
    whole_fragments,
)

LENGTH = 24
WHOLE = torch.arange(LENGTH, dtype=torch.float32) + 0.5
cuts = st.lists(st.integers(1, LENGTH - 1), unique=True, max_size=6).map(sorted)


def parts(edges: list[int], fill: torch.Tensor | None) -> list[Fragment]:
    bounds = [0, *edges, LENGTH]
    return [
        Fragment(
            "layer/with.dots",
            start,
            {
                "master": torch.zeros(stop - start) if fill is None else fill[start:stop].clone(),
                "step": torch.tensor(0.0 if fill is None else 7.0),
            },
        )
        for start, stop in itertools.pairwise(bounds)
    ]


@given(written=cuts, read=cuts)
def test_any_cutting_reads_any_other(
    tmp_path_factory: pytest.TempPathFactory, written: list[int], read: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("fragments")
    for rank, fragment in enumerate(parts(written, WHOLE)):
        save_fragments(folder, rank, [fragment])
    fragments = parts(read, None)
    load_fragments(folder, fragments)
    assert torch.equal(torch.cat([fragment.values["master"] for fragment in fragments]), WHOLE)
    assert all(fragment.values["step"] == 7 for fragment in fragments)


def test_a_missing_part_is_refused(tmp_path: Path) -> None:
    first, second, third = parts([8, 16], WHOLE)
    save_fragments(tmp_path, 0, [first])
    save_fragments(tmp_path, 2, [third])
    load_fragments(tmp_path, parts([8, 16], None)[::2])
    with pytest.raises(ValueError, match=r"0 of 8 values of master of layer/with\.dots"):
        load_fragments(tmp_path, [second])
    with pytest.raises(ValueError, match=r"16 of 24 values"):
        load_fragments(tmp_path, parts([], None))


def test_fragments_are_views_into_the_optimizer(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.ones(3, 4)
    optimizer.step()
    save_fragments(tmp_path, 0, whole_fragments([("w", weight)], optimizer))
    moments = adam_state(optimizer, weight)["exp_avg"].clone()
    weight.grad = torch.rand(3, 4)
    optimizer.step()
    load_fragments(tmp_path, whole_fragments([("w", weight)], optimizer))
    assert torch.equal(optimizer.state[weight]["exp_avg"], moments)
    assert optimizer.state[weight]["step"] == 1


def test_state_made_early_changes_no_step() -> None:
    ends = []
    for early in (False, True):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 12))
        optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
        if early:
            adam_state(optimizer, weight)
        for step in range(3):
            weight.grad = torch.full((12,), float(step + 1))
            optimizer.step()
        ends.append(weight.detach().clone())
    assert torch.equal(*ends)
