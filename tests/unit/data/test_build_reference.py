"""The pipeline against a slow and obvious build of the same recipe, in plain Python."""

import json
import re
import tempfile
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skiprec.data.ingest import Recipe, build_dataset
from skiprec.data.manifest import verify_files

MASK = 2**64 - 1


def mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def hash_text(text: str) -> int:
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return mix(value)


def uniform(value: int, seed: int, salt: int = 0) -> float:
    return (mix(value ^ mix(mix(seed) ^ salt)) >> 11) * 2.0**-53


def slow_build(rows: list[tuple[str, str, float, str]], recipe: Recipe) -> dict[str, Any]:
    """rows are (user, item, time, part) in file order; everything by original ids."""
    filters = recipe.filters
    users = sorted({user for user, *_ in rows}, key=hash_text)[: filters.max_users]
    rows = [row for row in rows if row[0] in users]
    raw_count = Counter(item for _, item, _, _ in rows)
    keep = [i for i in sorted(raw_count, key=lambda i: (-raw_count[i], i))]
    keep = [i for i in keep if raw_count[i] >= filters.min_item_count][: filters.max_items]
    histories: dict[str, list[tuple[str, str, float]]] = {}
    for user in users:
        own = [row for row in rows if row[0] == user and row[1] in keep]
        own.sort(key=lambda row: (row[3] == "test", row[2]))
        kept: list[tuple[str, str, float]] = []
        for _, item, time, part in own:
            before = {
                "none": [],
                "consecutive": [old for old, _, _ in kept[-1:]],
                "all": [old for old, _, _ in kept],
            }[filters.drop_repeats]
            if item not in before:
                kept.append((item, part, time))
        if len(kept) >= filters.min_history:
            histories[user] = kept
    times = sorted(time for history in histories.values() for _, _, time in history)
    count = Counter(item for history in histories.values() for item, _, _ in history)
    items = sorted(count, key=lambda i: (-count[i], i))
    number = {item: index for index, item in enumerate(items, start=1)}

    out: dict[str, list[Any]] = {"train": [], "validation": [], "test": []}
    used: dict[str, set[int]] = defaultdict(set)
    without_evaluation = 0
    for index, (user, history) in enumerate(histories.items()):
        placed = []
        n, hashed, split = len(history), hash_text(user), recipe.split
        if split.kind == "leave_one_out":
            train_n = n
            if n >= recipe.min_items + 2:
                placed += [("validation", n - 1), ("test", n)]
                train_n = n - 2
            else:
                without_evaluation += 1
            placed += [("train", end) for end in cuts(train_n, recipe)]
        elif split.kind == "given":
            train_n = sum(part == "train" for _, part, _ in history)
            is_held_out = uniform(hashed, split.seed) < split.validation_frac
            if not is_held_out:
                placed += [("train", end) for end in cuts(train_n, recipe)]
            if split.evaluation_ends == "last":
                if is_held_out:
                    placed += [("validation", end) for end in cuts(train_n, recipe)]
                placed += [("test", end) for end in cuts(n, recipe) if end > train_n]
            else:
                if is_held_out:
                    placed += anywhere("validation", 1, train_n, hashed, recipe)
                placed += anywhere("test", train_n + 1, n, hashed, recipe)
        elif split.kind == "by_time":
            cut_offs = [
                times[int(at * len(times))] for at in (split.validation_from, split.test_from)
            ]
            if cut_offs[0] >= cut_offs[1]:
                return {"cut_offs": cut_offs}
            before = [sum(time < cut_off for _, _, time in history) for cut_off in cut_offs]
            without_evaluation += before[0] == n
            placed += [("train", end) for end in cuts(before[0], recipe)]
            for part, low, high in (("validation", *before), ("test", before[1], n)):
                if split.evaluation_ends == "last":
                    placed += [(part, high)] if high >= max(low + 1, recipe.min_items) else []
                else:
                    placed += anywhere(part, low + 1, high, hashed, recipe)
        elif split.kind == "by_user" and split.evaluation_ends != "last":
            draw = uniform(hashed, split.seed)
            if draw < split.test_frac + split.validation_frac:
                part = "test" if draw < split.test_frac else "validation"
                placed += anywhere(part, 1, n, hashed, recipe)
            else:
                placed += [("train", end) for end in cuts(n, recipe)]
        else:
            for end in cuts(n, recipe):
                value = mix(hashed ^ end) if split.kind == "by_window" else hashed
                draw = uniform(value, split.seed)
                part = "train"
                if draw < split.test_frac + split.validation_frac:
                    part = "test" if draw < split.test_frac else "validation"
                placed.append((part, end))
        for part, end in sorted(placed, key=lambda pair: pair[1]):
            start = max(0, end - recipe.window)
            shown = [number[item] for item, _, _ in history[start:end]]
            shown_times = [round(time * 1000) for _, _, time in history[start:end]]
            padding = [0] * (recipe.window - len(shown))
            columns = [shown, shown_times] if recipe.times else [shown]
            out[part].append((index, end, *(tuple(padding + column) for column in columns)))
            used[user] |= set(range(start, end))
    train_count = Counter(i for _, _, row, *_ in out["train"] for i in row)
    rows_of = {part: [row[-1] for _, _, row, *_ in out[part]] for part in out}
    return {
        "rows": out,
        "items": [(number[i], i, count[i], train_count[number[i]]) for i in items],
        "users": [(index, user, len(h)) for index, (user, h) in enumerate(histories.items())],
        "leftover": sum(len(h) - len(used[user]) for user, h in histories.items()),
        "without_evaluation": without_evaluation,
        "dropped": sum(len(h) for h in histories.values()),
        "repeats": sum(len(h) - len({item for item, *_ in h}) for h in histories.values()),
        "directly": sum(a[0] == b[0] for h in histories.values() for a, b in pairwise(h)),
        "unseen": {part: sum(not train_count[i] for i in last) for part, last in rows_of.items()},
    }


def anywhere(part: str, first: int, last: int, hashed: int, recipe: Recipe) -> list[Any]:
    """Rows that end at drawn items of first..last, counted from 1."""
    ends = range(max(first, recipe.min_items), last + 1)
    bound = recipe.split.max_ends or (1 if recipe.split.evaluation_ends == "random" else None)
    drawn = sorted(ends, key=lambda end: uniform(mix(hashed ^ end), recipe.split.seed, salt=1))
    return [(part, end) for end in drawn[:bound]]


def cuts(n: int, recipe: Recipe) -> list[int]:
    ends = []
    while n > 0:
        if min(n, recipe.window) >= recipe.min_items:
            ends.append(n)
        n -= recipe.window
    return ends[::-1]


def read_table(path: Path) -> list[tuple[Any, ...]]:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    columns = [table[name].to_pylist() for name in table.column_names]
    return list(zip(*columns, strict=True))


def number_of(text: str) -> int:
    return int(text.partition(" ")[0].replace(",", ""))


def fast_build(folder: Path, rows: list[Any], recipe: Recipe, **sizes: int) -> dict[str, Any]:
    inputs = {"train": [], "test": []}
    for part in inputs:
        own = [row for row in rows if row[3] == part]
        if own or (part == "test" and recipe.split.kind == "given"):
            path = folder / f"{part}.csv"
            lines = [f"{user},{item},{time}" for user, item, time, _ in own]
            path.write_text("\n".join(["user,item,time", *lines]) + "\n")
            inputs[part].append(path)
    output = folder / "out"
    manifest = build_dataset(
        recipe, inputs["train"], output, test_inputs=inputs["test"], progress=str, **sizes
    )
    verify_files(output, manifest)
    assert not (output / "scratch").exists()
    # What is printed adds up: read - dropped = kept.
    read, dropped, kept = re.split("; dropped: |\nkept: ", manifest.describe())
    lost = 0 if dropped == "none" else sum(map(number_of, dropped.split(", ")))
    assert number_of(read) - lost == number_of(kept) == manifest.num_interactions
    return {
        "rows": {
            split: [
                (user, end, *map(tuple, lists))
                for file in info.files
                for user, end, *lists in read_table(output / file.name)
            ]
            for split, info in manifest.splits.items()
        },
        "items": read_table(output / "items.arrow"),
        "users": read_table(output / "users.arrow"),
        "leftover": manifest.counts.leftover_interactions,
        "without_evaluation": manifest.counts.users_without_evaluation,
        "dropped": manifest.num_interactions,
        "repeats": manifest.profile.repeats,
        "directly": manifest.profile.consecutive_repeats,
        "unseen": manifest.profile.unseen_targets,
    }


def make(
    split: dict[str, Any], window: int, min_items: int, times: bool = False, **filters: Any
) -> Recipe:
    source = {"kind": "text", "user_column": "user", "item_column": "item", "time_column": "time"}
    source |= {"time_unit": "s"}
    filters = {"min_history": min_items} | filters
    return Recipe.model_validate(
        {
            "name": "random",
            "window": window,
            "min_items": min_items,
            "times": times,
            "source": source,
            "filters": filters,
            "split": split,
        }
    )


SPLITS = [
    {"kind": "by_user", "validation_frac": 0.3, "test_frac": 0.3, "seed": 3},
    {"kind": "by_window", "validation_frac": 0.2, "test_frac": 0.4},
    {"kind": "leave_one_out"},
    {"kind": "given", "validation_frac": 0.4, "seed": 1},
    {"kind": "by_time", "validation_from": 0.4, "test_from": 0.7},
    {"kind": "by_time", "validation_from": 0.3, "test_from": 0.6, "evaluation_ends": "all"},
    {"kind": "by_user", "validation_frac": 0.3, "test_frac": 0.3, "evaluation_ends": "random"},
    {"kind": "given", "validation_frac": 0.4, "evaluation_ends": "all", "max_ends": 3},
]


@st.composite
def interactions(draw: Any, parts: tuple[str, ...]) -> list[tuple[str, str, float, str]]:
    user = st.sampled_from(["a", "b", "c", "ü4", "user-5", "6", "06"])
    item = st.sampled_from([f"i{n}" for n in range(9)] + ["x y", "é"])
    time = st.sampled_from([-2.5, -1.0, 0.0, 0.5, 1.0, 2.0, 1e9])
    row = st.tuples(user, item, time, st.sampled_from(parts))
    rows = draw(st.lists(row, min_size=20, max_size=120))
    return sorted(rows, key=lambda r: r[3] == "test")  # the train file is read first


@pytest.mark.parametrize(
    "split", SPLITS, ids=lambda split: f"{split['kind']}, {split.get('evaluation_ends', 'last')}"
)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_fast_build_equals_the_slow_one(split: dict[str, Any], data: Any) -> None:
    parts = ("train", "test") if split["kind"] == "given" else ("train",)
    rows = data.draw(interactions(parts))
    if len({row[3] for row in rows}) < len(parts):
        return
    window = data.draw(st.integers(2, 7))
    recipe = make(
        split,
        window,
        data.draw(st.integers(2, min(3, window))),
        times=data.draw(st.booleans()),
        drop_repeats=data.draw(st.sampled_from(["none", "consecutive", "all"])),
        min_item_count=data.draw(st.integers(1, 3)),
        max_items=data.draw(st.sampled_from([None, 5, 9])),
        max_users=data.draw(st.sampled_from([None, 3, 6])),
    )
    sizes = {
        "num_buckets": data.draw(st.sampled_from([1, 3, 64])),
        "block_bytes": data.draw(st.sampled_from([64, 300, 1 << 20])),
    }
    expected = slow_build(rows, recipe)
    with tempfile.TemporaryDirectory() as folder:
        if "cut_offs" in expected:
            with pytest.raises(ValueError, match="expected the first to be earlier"):
                fast_build(Path(folder), rows, recipe, **sizes)
            return
        if not expected["rows"]["train"]:
            with pytest.raises(
                ValueError, match=r"has no rows|no history is left|nothing to train on"
            ):
                fast_build(Path(folder), rows, recipe, **sizes)
            return
        assert fast_build(Path(folder), rows, recipe, **sizes) == expected


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    """Control: another seed, window or order of the file gives another dataset."""
    rows = [(u, f"i{n % 7}", float(n // 2), "train") for n in range(40) for u in ("a", "b", "c")]
    recipe = make(SPLITS[1], 4, 2)
    built = fast_build(tmp_path, rows, recipe)
    assert built == slow_build(rows, recipe)
    assert built != slow_build(rows, make(SPLITS[1] | {"seed": 9}, 4, 2))
    assert built != slow_build(rows, make(SPLITS[1], 5, 2))
    assert built != slow_build(rows[::-1], recipe)  # times tie, so the place in the file decides


def test_every_file_is_the_same_for_any_buckets_and_blocks(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    lines = [f"u{n * 7919 % 61},i{n * 104729 % 83},{n % 50}" for n in range(4000)]
    path.write_text("\n".join(["user,item,time", *lines]))
    manifests = []
    for number, (num_buckets, block_bytes) in enumerate([(1, 1 << 20), (7, 999), (200, 4096)]):
        folder = tmp_path / str(number)
        sizes = {"num_buckets": num_buckets, "block_bytes": block_bytes}
        build_dataset(make(SPLITS[0], 6, 3), [path], folder, progress=str, **sizes)
        manifests.append(json.loads((folder / "manifest.json").read_text()))
    assert manifests[0] == manifests[1] == manifests[2]  # sizes and sha256 of all files included
