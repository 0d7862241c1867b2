"""What a build prints of its data, for a log whose numbers are counted by hand."""

from pathlib import Path
from typing import Any

from skiprec.data.ingest import build_dataset, make_recipe

TABLE = {
    "kind": "text", "user_column": "user", "item_column": "item", "time_column": "time",
    "time_format": "iso8601",
}  # fmt: skip


def said_of(folder: Path, lines: list[str], split: dict[str, Any], **more: Any) -> list[str]:
    log = folder / "log.csv"
    log.write_text("\n".join(["user,item,time", *lines]) + "\n")
    content = {"name": "t", "window": 4, "source": TABLE, "split": split} | more
    recipe = make_recipe(content, {}, origin="test")
    return build_dataset(recipe, [log], folder / "out", progress=str).describe().splitlines()


def test_every_line_of_a_small_log(tmp_path: Path) -> None:
    lines = [
        *(f"ann,{item},2024-01-0{day}" for day, item in enumerate("abab", start=1)),
        *(f"bob,{item},2024-01-0{day}" for day, item in enumerate("aab", start=1)),
        "ann,a,2024-02-??", "ann,c,2024-03-05", "bob,b,2024-03-06", "cyd,a,2024-01-01",
    ]  # fmt: skip
    split = {"kind": "by_time", "validation_from": "2024-02-01", "test_from": "2024-03-01"}
    assert said_of(tmp_path, lines, split) == [
        "11 interactions read (1 partial date); dropped: 1 of 1 user with a short history",
        # Of 10 interactions, 5 are distinct pairs of 2 users and 3 items.
        "kept: 10 interactions of 2 users with 3 items (density 83.33%)",
        "rows: 2 train, 1 validation, 2 test",
        "items of a user: min 4, 10 % 4, 25 % 4, 50 % 6, 75 % 6, 90 % 6, max 6",
        "repeats: 5 interactions with an item that the user had before, 2 directly after it",
        "train: from 2024-01-01T00:00:00Z to 2024-01-04T00:00:00Z",
        "validation: from 2024-02-01T00:00:00Z to 2024-02-01T00:00:00Z",
        "test: from 2024-03-05T00:00:00Z to 2024-03-06T00:00:00Z",
        "validation targets that were never trained on: 0 of 1 (0.0%)",
        "test targets that were never trained on: 1 of 2 (50.0%)",
    ]


def test_items_that_nobody_can_predict_are_a_warning(tmp_path: Path) -> None:
    """As where each user has items of his own, and one of them is held out."""
    lines = [f"u{user},i{user}-{n},2024-01-0{n + 1}" for user in range(9) for n in range(5)]
    said = said_of(tmp_path, lines, {"kind": "leave_one_out"})
    assert "test targets that were never trained on: 9 of 9 (100.0%)" in said
    assert any(line.startswith("WARNING: no model can predict an item") for line in said)
