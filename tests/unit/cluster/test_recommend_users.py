"""Batch scoring gives each user of any kind of file exactly once what `Recommender` gives."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from cluster.serving import score_users as scoring
from cluster.serving.histories import DONE, part_name, prepare_histories
from cluster.serving.score_users import Asked, Crew, Scorer, output_name
from skiprec.data.ingest.raw_files import content_of
from skiprec.data.ingest.recipe import Recipe, make_recipe
from skiprec.inference import Recommender
from tests.testkit.bad_input import FILES
from tests.testkit.exports import IDS, export_small_model
from tests.testkit.repository import ROOT

NUM_USERS = 70
Histories = dict[str, list[str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    export_small_model(folder)
    return folder


def random_histories() -> Histories:
    generator = np.random.default_rng(5)
    names = [*IDS, "unknown"]
    lengths = generator.integers(1, 12, NUM_USERS)
    return {f"user {n}": generator.choice(names, size).tolist() for n, size in enumerate(lengths)}


def recipe_for(file: Path, **source: Any) -> Recipe:
    columns = {"kind": content_of(file), "user_column": "user", "item_column": "item"}
    content: dict[str, Any] = {"name": "users", "window": 2, "min_items": 2}
    content |= {"split": {"kind": "by_user"}, "source": columns | source}
    return make_recipe(content, {}, origin="test")


def as_lists(folder: Path, histories: Histories) -> tuple[Recipe, list[Path]]:
    """Two Parquet files of lists."""
    items = sorted(histories.items())
    paths = [folder / "one.parquet", folder / "two.parquet"]
    for path, part in zip(paths, (items[:20], items[20:]), strict=True):
        table = pa.table({"user": [u for u, _ in part], "item": [h for _, h in part]})
        pyarrow.parquet.write_table(table, path, row_group_size=7)
    return recipe_for(paths[0], row_holds="history"), paths


def as_log(folder: Path, histories: Histories) -> tuple[Recipe, list[Path]]:
    """A CSV of interactions with times, in an order of its own."""
    generator = np.random.default_rng(6)
    lines = [
        f"{user},{item},{100 + place}"
        for user, history in histories.items()
        for place, item in enumerate(history)
    ]
    path = folder / "log.csv"
    path.write_text("user,item,time\n" + "\n".join(generator.permutation(lines)) + "\n")
    return recipe_for(path, time_column="time"), [path]


def as_json(folder: Path, histories: Histories) -> tuple[Recipe, list[Path]]:
    path = folder / "log.jsonl"
    rows = [{"user": user, "item": history} for user, history in histories.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return recipe_for(path, row_holds="history"), [path]


FORMS = [as_lists, as_log, as_json]


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("num_parts", [1, 40])
def test_each_history_is_in_one_part_and_in_order(
    tmp_path: Path, write: Any, num_parts: int
) -> None:
    histories = random_histories()
    recipe, inputs = write(tmp_path, histories)
    counts = prepare_histories(recipe, inputs, tmp_path / "scratch", num_parts, str)
    assert len(counts) == num_parts
    found: list[tuple[str, list[str]]] = []
    for part, count in enumerate(counts):
        with pa.ipc.open_file(str(tmp_path / "scratch" / part_name(part))) as reader:
            rows = reader.read_all().to_pylist()
        assert len(rows) == count
        found += [(row["user"], row["items"]) for row in rows]
    assert len(found) == NUM_USERS
    assert dict(found) == histories


def test_histories_are_prepared_once_and_a_broken_attempt_counts_for_nothing(
    tmp_path: Path,
) -> None:
    recipe, inputs = as_log(tmp_path, random_histories())
    scratch = tmp_path / "scratch"
    first = prepare_histories(recipe, inputs, scratch, 3, str)
    (scratch / DONE).unlink()
    (scratch / part_name(0)).write_bytes(b"half of a file")
    assert prepare_histories(recipe, inputs, scratch, 3, str) == first
    with pa.ipc.open_file(str(scratch / part_name(0))) as reader:
        assert reader.read_all().num_rows == first[0]
    inputs[0].unlink()
    assert prepare_histories(recipe, inputs, scratch, 3, str) == first


class InThisProcess:
    """In the place of the actors, with a count of the parts that were scored."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_after: int | None = None) -> None:
        self.scored: list[int] = []

        def score_parts(
            model: Path, output: Path, parts: list[int], asked: Asked, crew: Crew
        ) -> Any:
            scorer = Scorer(str(model), str(output), asked, crew.threads)
            for part in parts:
                if len(self.scored) == fails_after:
                    raise KeyboardInterrupt
                self.scored.append(part)
                users = scorer({"part": np.array([part])})["users"]
                yield {"part": part, "users": users[0]}

        monkeypatch.setattr(scoring, "_score_parts", score_parts)


def read_output(output: Path) -> list[dict[str, Any]]:
    files = json.loads((output / "_manifest.json").read_text())["files"]
    assert sorted(path.name for path in output.glob("*.parquet")) == files
    return [row for file in files for row in pyarrow.parquet.read_table(output / file).to_pylist()]


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize(
    "asked", [Asked(k=4), Asked(k=3, exclude_seen=False, keep=0.5, explain=True, deny=(IDS[0],))]
)
def test_answers_are_those_of_the_library(
    tmp_path: Path, model: Path, write: Any, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    InThisProcess(monkeypatch)
    histories = random_histories()
    recipe, inputs = write(tmp_path, histories)
    manifest = scoring.score_users(
        model, recipe, inputs, tmp_path / "out", asked, Crew(parts=5), str
    )
    rows = read_output(tmp_path / "out")
    assert manifest["users"] == len(rows) == NUM_USERS
    assert not (tmp_path / "out" / "_scratch").exists()
    recommender = Recommender.load(model)
    for row in rows:
        user = row.pop("user")
        (expected,) = recommender.recommend(
            [histories.pop(user)],
            asked.k,
            asked.exclude_seen,
            None,
            asked.deny,
            asked.keep,
            asked.explain,
        )
        assert row["items"] == expected.items
        assert row["kept_blocks"] == expected.kept_blocks
        assert (row["source"], row["unknown"]) == (expected.source, expected.unknown)
        np.testing.assert_allclose(row["scores"], expected.scores, rtol=1e-5)
    assert not histories, "each user once"
    assert manifest["unknown_items"] == sum(len(row["unknown"]) for row in rows) > 0


def test_an_interrupted_command_goes_on_and_computes_no_part_twice(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, inputs = as_log(tmp_path, random_histories())
    given = (model, recipe, inputs, tmp_path / "out", Asked(k=4), Crew(parts=6), str)
    first = InThisProcess(monkeypatch, fails_after=2)
    with pytest.raises(KeyboardInterrupt):
        scoring.score_users(*given)
    assert not (tmp_path / "out" / "_manifest.json").exists()
    second = InThisProcess(monkeypatch)
    scoring.score_users(*given)
    assert sorted(first.scored + second.scored) == list(range(6))
    rows = read_output(tmp_path / "out")
    third = InThisProcess(monkeypatch)
    said: list[str] = []
    scoring.score_users(*given[:-1], said.append)
    assert third.scored == []
    assert said == [f"{tmp_path / 'out'} is complete; nothing is left to do"]
    assert read_output(tmp_path / "out") == rows


def test_a_part_that_is_not_whole_is_noticed(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InThisProcess(monkeypatch, fails_after=3)
    recipe, inputs = as_log(tmp_path, random_histories())
    given = (model, recipe, inputs, tmp_path / "out", Asked(k=4), Crew(parts=6), str)
    with pytest.raises(KeyboardInterrupt):
        scoring.score_users(*given)
    path = tmp_path / "out" / output_name(0)
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).slice(1), path)
    InThisProcess(monkeypatch)
    with pytest.raises(ValueError, match=r"part-00000.parquet has \d+ users; expected \d+"):
        scoring.score_users(*given)


def test_other_options_are_refused_by_name(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, inputs = as_log(tmp_path, random_histories())
    output = tmp_path / "out"
    InThisProcess(monkeypatch, fails_after=0)
    with pytest.raises(KeyboardInterrupt):
        scoring.score_users(model, recipe, inputs, output, Asked(k=9), Crew(parts=4), str)
    InThisProcess(monkeypatch)  # nothing had come of the first attempt
    scoring.score_users(model, recipe, inputs, output, Asked(k=4), Crew(parts=2), str)
    assert len(read_output(output)) == NUM_USERS
    with pytest.raises(ValueError, match="begun with another parts, k; give the same options"):
        scoring.score_users(model, recipe, inputs, output, Asked(k=5), Crew(parts=3), str)
    inputs[0].write_text(inputs[0].read_text() + "u,2,1\n")
    with pytest.raises(ValueError, match="begun with another inputs"):
        scoring.score_users(model, recipe, inputs, output, Asked(k=4), Crew(parts=2), str)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty \(it has notes.txt\)"):
        scoring.score_users(model, recipe, inputs, tmp_path / "full", Asked(), Crew(), str)


def test_only_one_command_fills_a_folder(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InThisProcess(monkeypatch)
    recipe, inputs = as_log(tmp_path, random_histories())
    output = tmp_path / "out"
    given = (model, recipe, inputs, output, Asked(), Crew(parts=2), str)
    with scoring._only_driver(tmp_path), pytest.raises(ValueError, match="another command is"):
        scoring.score_users(*given[:3], tmp_path, *given[4:])
    scoring.score_users(*given)
    (output / output_name(1)).unlink()
    with pytest.raises(ValueError, match=r"was complete and has lost part-00001.parquet"):
        scoring.score_users(*given)


def test_a_denied_item_of_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "deny.txt").write_bytes(b"\xef\xbb\xbfitem 1\r\n\r\nitem 3\n")
    read_lines = runpy.run_path(str(ROOT / "jobs/recommend_users.py"), run_name="not_main")
    assert read_lines["read_lines"](tmp_path / "deny.txt") == ("item 1", "item 3")


@pytest.mark.parametrize(("content", "options", "message"), FILES)
def test_wrong_files_and_flags(
    tmp_path: Path,
    model: Path,
    content: str | None,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "users.csv"
    if content is not None:
        file.write_text(content)
    given = {"--model": str(model), "--user-column": "user", "--item-column": "item"}
    given |= dict(zip(options[::2], options[1::2], strict=True))
    arguments = ["--input", str(file), "--output", str(tmp_path / "out")]
    arguments += [part for pair in given.items() for part in pair]
    main = runpy.run_path(str(ROOT / "jobs/recommend_users.py"), run_name="not_main")["main"]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_a_user_without_items_gets_the_most_frequent_ones(
    tmp_path: Path, model: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty history and a missing one; a list that holds nothing but null stays an error."""
    InThisProcess(monkeypatch)
    rows: list[dict[str, Any]] = [
        {"user": "a", "item": [IDS[1], IDS[3]]},
        {"user": "b", "item": []},
        {"user": "c", "item": None},
    ]
    file = tmp_path / f"users.{form}"
    if form == "parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), file)
    elif form == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        file.write_text("user,item\n" + f"a,{IDS[1]} {IDS[3]}\n" + "b, \nc,\n")
    recipe = recipe_for(file, row_holds="history")
    given = (model, recipe, [file], tmp_path / "out", Asked(k=4), Crew(parts=2), str)
    manifest = scoring.score_users(*given)
    assert manifest["by_source"] == {"model": 1, "popularity": 2}
    found = {row["user"]: row for row in read_output(tmp_path / "out")}
    (popular,) = Recommender.load(model).recommend([[]], k=4)
    for user in "bc":
        assert (found[user]["items"], found[user]["source"]) == (popular.items, "popularity")
    assert found["a"]["read"] == 2
    if form != "csv":
        bad = tmp_path / f"bad.{form}"
        rows[1]["item"] = [None]
        if form == "parquet":
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), bad)
        else:
            bad.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(ValueError, match="no item id in column 'item'"):
            scoring.score_users(model, recipe, [bad], tmp_path / "bad", Asked(k=4), Crew(), str)
