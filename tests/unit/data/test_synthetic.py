"""Synthetic histories follow the rules that their description states."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from skiprec.data.ingest.recipe import SyntheticSource
from skiprec.data.ingest.synthetic import generate_chunks, kind_of_user


def histories(**settings: Any) -> dict[str, list[str]]:
    source = SyntheticSource(**settings)
    result: dict[str, list[str]] = {}
    for chunk in generate_chunks(source):
        pairs = zip(chunk.users_N.to_pylist(), chunk.items_N.to_pylist(), strict=True)
        for user, item in pairs:
            result.setdefault(user, []).append(item)
    return result


def test_without_markers_the_rules_hold_at_every_step() -> None:
    successor: dict[str, str] = {}
    for user, items in histories(num_users=200, marker_frac=0.0).items():
        assert len(items) == 40
        if user.startswith("easy"):
            for last, following in pairwise(items):
                assert successor.setdefault(last, following) == following
            continue
        for step in range(13, 40):
            category = items[step - 8].split(".")[0]
            member = items[step - 13].split(".")[1]
            assert items[step] == f"{category}.{member}"


def test_near_items_tell_nothing_about_a_hard_user() -> None:
    """Control: the easy rule does not hold for hard users, or the kinds would be one."""
    following: dict[str, set[str]] = {}
    for user, items in histories(num_users=2000, marker_frac=0.0).items():
        if user.startswith("hard"):
            for last, item in pairwise(items):
                following.setdefault(last, set()).add(item)
    assert min(len(items) for items in following.values()) > 50


def test_markers_and_nothing_else_but_the_rule_tell_the_kind() -> None:
    shown = {"easy": set(), "hard": set()}
    share = []
    for user, items in histories(num_users=600, marker_frac=0.2).items():
        kind = user.split("-")[0]
        markers = {item for item in items if "marker" in item}
        assert all(item.startswith(kind) for item in markers)
        shown[kind] |= set(items) - markers
        share.append(sum("marker" in item for item in items) / len(items))
    assert shown["easy"] == shown["hard"]  # both kinds use every regular item
    assert np.mean(share) == pytest.approx(0.2, abs=0.01)


def test_the_share_of_hard_users_and_the_lengths_are_settings() -> None:
    made = histories(num_users=10_000, hard_frac=0.3, min_length=3, max_length=9)
    kinds = kind_of_user(pa.array(list(made))).to_pylist()
    assert kinds.count("hard") == 3000
    assert {len(items) for items in made.values()} == set(range(3, 10))


def test_equal_seeds_are_equal_and_others_are_not() -> None:
    assert histories(num_users=50) == histories(num_users=50)
    assert histories(num_users=50) != histories(num_users=50, seed=1)
