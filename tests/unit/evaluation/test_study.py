"""Studies: what a file expands to, what is refused, and the arithmetic of the table."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.studies.study import Study, load_study, study_runs
from cluster.studies.table import against, study_markdown
from skiprec.evaluation.measure.arms import FULL_BACKBONE
from skiprec.evaluation.report.schema import METRICS

STUDIES = sorted((Path(__file__).resolve().parents[3] / "jobs/studies").glob("*.toml"))
REQUIRED = {
    "main",
    "policy_controls",
    "policy_gru",
    "policy_pictures",
    "convergence",
    "adaptability",
    "paper_faithful",
    "personal",
    "depth",
}

BASE = """
name = "common"
[data]
path = "data"
"""
GUMBEL = """
base = "plain.toml"
init_from = "plain"
[policy]
kind = "gumbel"
width = 8
[training]
execution = "masked"
"""


def study_file(folder: Path, rows: str, **more: str) -> Path:
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "configs/plain.toml").write_text(BASE)
    (folder / "configs/gumbel.toml").write_text(GUMBEL)
    keys = {"title": '"t"', "configs": '"configs"'} | more
    path = folder / "study.toml"
    path.write_text("\n".join(f"{k} = {v}" for k, v in keys.items()) + f"\nrows = [{rows}]\n")
    return path


PLAIN_ROW = '{ label = "P", config = "plain" }'


def test_the_studies_of_the_paper_are_there() -> None:
    assert {path.stem for path in STUDIES} >= REQUIRED


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_study_expands(path: Path) -> None:
    study = load_study(path)
    runs = study_runs(study, path.parent, ["root=elsewhere"])
    trained = [row for row in study.rows if row.config is not None]
    assert len(runs) == sum(len(row.seeds or study.seeds) for row in trained)
    assert len({config.name for _, _, config in runs}) == len(runs)
    assert all(config.root == "elsewhere" for _, _, config in runs)


def test_a_run_is_named_after_row_and_seed_and_so_is_what_it_starts_from(tmp_path: Path) -> None:
    rows = (
        f'{PLAIN_ROW}, {{ label = "G", config = "gumbel", name = "g8", set = ["model.width=8"] }}'
    )
    path = study_file(tmp_path, rows, seeds="[0, 3]")
    runs = study_runs(load_study(path), tmp_path, ["training.epochs=2", "model.num_blocks=4"])
    assert [config.name for _, _, config in runs] == ["plain-s0", "g8-s0", "plain-s3", "g8-s3"]
    assert [config.init_from for _, _, config in runs] == [None, "plain-s0", None, "plain-s3"]
    assert [config.training.seed for _, _, config in runs] == [0, 0, 3, 3]
    assert {config.training.epochs for _, _, config in runs} == {2.0}
    assert [config.model.width for _, _, config in runs] == [64, 8, 64, 8]


def test_a_row_overrides_what_its_study_sets_and_the_command_both(tmp_path: Path) -> None:
    rows = f"""{PLAIN_ROW},
      {{ label = "W", config = "plain", name = "wide", set = ["model.width=8"] }}"""
    path = study_file(tmp_path, rows, set='["model.width=16", "training.epochs=3"]')
    runs = study_runs(load_study(path), tmp_path, ["training.epochs=2"])
    assert [config.model.width for _, _, config in runs] == [16, 8]
    assert {config.training.epochs for _, _, config in runs} == {2.0}


def test_a_row_may_have_some_of_the_seeds(tmp_path: Path) -> None:
    once = '{ label = "Q", config = "plain", name = "q", seeds = [3] }'
    study = load_study(study_file(tmp_path, f"{PLAIN_ROW}, {once}", seeds="[0, 3]"))
    names = [config.name for _, _, config in study_runs(study, tmp_path, [])]
    assert names == ["plain-s0", "plain-s3", "q-s3"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{ label = "x" }', "expected either config, or arm and of"),
        ('{ label = "x", config = "plain", arm = "random", of = "plain" }', "expected either"),
        (f'{PLAIN_ROW}, {{ label = "x", arm = "random", of = "nobody" }}', "no row is named"),
        ('{ label = "x", config = "plain", set = ["model.width=8"] }', "give it a name"),
        (f'{PLAIN_ROW}, {{ label = "x", arm = "random", of = "plain", name = "n" }}', "no effect"),
        (f'{{ label = "x", arm = "random", of = "plain" }}, {PLAIN_ROW}', "needs a config"),
        (f"{PLAIN_ROW}, {PLAIN_ROW}", "two rows of the study have one name"),
        ('{ label = "x", config = "plain", seeds = [0] }', "needs a config and every seed"),
        (f'{PLAIN_ROW}, {{ label = "x", config = "gumbel", seeds = [1] }}', r"study, \[0\], found"),
        (f'{PLAIN_ROW}, {{ label = "x", colour = "red" }}', "unknown key 'rows.1.colour'"),
    ],
)
def test_a_study_that_cannot_be_meant_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_study(study_file(tmp_path, rows))


def test_an_option_that_a_row_s_backbone_lacks_is_refused_before_anything_trains(
    tmp_path: Path,
) -> None:
    rows = f"""{PLAIN_ROW},
      {{ label = "S", config = "plain", name = "s", set = ["model.backbone=sasrec_plus"] }}"""
    study = load_study(study_file(tmp_path, rows))
    assert len(study_runs(study, tmp_path, [])) == 2
    with pytest.raises(ValueError, match=r"row 'S': model\.dilations has no effect"):
        study_runs(study, tmp_path, ["model.dilations=[1, 7]"])


def test_a_second_stage_before_its_first_is_refused(tmp_path: Path) -> None:
    path = study_file(tmp_path, f'{{ label = "G", config = "gumbel" }}, {PLAIN_ROW}')
    with pytest.raises(ValueError, match="which no earlier row trains"):
        study_runs(load_study(path), tmp_path, [])


def test_an_unknown_study_names_those_there_are(tmp_path: Path) -> None:
    study_file(tmp_path, PLAIN_ROW)
    with pytest.raises(ValueError, match=r"no study at .*; there are: study"):
        load_study(tmp_path / "absent.toml")


def ranks_table(rank_R: list[int], name: str = "full_backbone") -> pa.Table:
    number = np.arange(len(rank_R), dtype=np.int32)
    return pa.table({"user": number // 2, "row": number, "target": number, f"rank_{name}": rank_R})


def test_the_difference_to_the_reference_is_paired_by_row() -> None:
    reference = ranks_table([1, 2, 4, 100])
    other = ranks_table([2, 2, 1, 1], "skiprec")
    found = against(other, reference, FULL_BACKBONE)["skiprec"]
    assert set(METRICS) < set(found)
    assert found["mrr@20"] == pytest.approx((-0.5 + 0 + 0.75 + 1) / 4)
    assert found["hr@5"] == pytest.approx(1 / 4)
    low, high = found["mrr@20_interval"]
    # Two users with means of -0.25 and 0.875: resamples reach from one to the other.
    assert (low, high) == (pytest.approx(-0.25), pytest.approx(0.875))


def test_evaluations_of_other_rows_are_not_paired() -> None:
    other = ranks_table([1, 2, 3])
    with pytest.raises(ValueError, match="not of the same rows"):
        against(ranks_table([1, 2, 3, 4]), other, FULL_BACKBONE)


def result(mrr: float, minus: float) -> dict[str, Any]:
    line = dict.fromkeys(METRICS, mrr) | {"name": "full_backbone", "keep_frac": 1.0}
    line |= {"speedup_flops": 1.0, "speedup_end_to_end": None}
    difference = {"mrr@20": minus, "mrr@20_interval": [minus - 0.01, minus + 0.03]}
    return {
        "rows": [line],
        "policy": None,
        "flops_full_row": 3e6,
        "against_reference": {"full_backbone": difference},
        "training": {"minutes": 3.0},
    }


def test_a_line_of_the_table_is_the_mean_and_spread_over_seeds() -> None:
    study = Study.model_validate(
        {
            "title": "T",
            "configs": "c",
            "rows": [{"label": "A", "config": "a"}, {"label": "B", "config": "b"}],
        }
    )
    text = study_markdown(study, {"a": [result(0.1, 0.0), result(0.2, 0.02)]}, ["more"], ["a note"])
    line = next(line for line in text.splitlines() if line.startswith("| A |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "2"
    assert cells[3] == ".1500 ± 0.0707"
    assert cells[7] == "3.00 ± 0.00"
    assert cells[10] == "+0.0100 [+0.0000, +0.0400]"
    assert "| B | 0 | not run |" in text
    assert "- a note" in text


def test_policies_are_shown_beside_their_controls_at_the_same_number_of_blocks() -> None:
    rows = [{"label": "A", "config": "a"}, {"label": "B", "config": "b"}]
    study = Study.model_validate({"title": "T", "configs": "c", "rows": rows})
    decided = [result(0.1, 0.0), result(0.2, 0.02)]
    for number, one in enumerate(decided):
        one["policy"] = {
            "distinct_decisions": 1000 + 2000 * number,
            "between_user_share": 0.5,
            "kept_blocks_std": 1.0 + number,
        }
        shuffled = {"minus": "shuffled", "mrr@20": 0.01, "mrr@20_interval": [0.0, 0.02 + number]}
        one["differences"] = [shuffled, shuffled | {"minus": "hull", "mrr@20": -0.01}]
    text = study_markdown(study, {"a": [result(0.1, 0.0)], "b": decided}, [], [])
    lines = text.splitlines()
    (row,) = [line for line in lines[lines.index("") + 5 :] if line.startswith("| B |")]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "B",
        "2,000 ± 1,414",
        "0.50 ± 0.00",
        "1.50 ± 0.71",
        "+0.0100 [+0.0000, +0.5200]",
        "",
        "-0.0100 [+0.0000, +0.5200]",
        "",
    ]
    assert "Decisions, and the same net" not in study_markdown(
        study, {"a": [result(0.1, 0)]}, [], []
    )
