"""The evaluator on a real Ray gives the same table at any number of workers and batch size.

A lost actor changes nothing, and a report appears as a whole or not at all.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from cluster.evaluation.actors import Job, Scorer
from cluster.evaluation.crew import remote_class
from cluster.evaluation.evaluate import evaluate_run, evaluation_config
from cluster.machine.session import ray_session
from cluster.runs.folder import open_run
from skiprec.checkpoints.files import MANIFEST, WEIGHTS, CheckpointFile, best_good, read_manifest
from skiprec.checkpoints.network import load_network
from skiprec.data.shards import ShardSet
from skiprec.evaluation.measure.baselines import popularity_places
from skiprec.evaluation.measure.scoring import decide_unit
from skiprec.evaluation.measure.tiles import TILE_ROWS, read_tiles
from skiprec.evaluation.report.schema import Report
from tests.testkit.runs import build_smoke_data, smoke_config, train_here

IN_THIS_PROCESS = "evaluation.num_workers=0"
QUICK = (
    "evaluation.split=train",  # the smoke data's largest split: ten tiles
    "evaluation.timing_batches=[1,16]",
    "evaluation.timing_users=8",
    "evaluation.timing_repeats=3",
)


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session(num_cpus=3):  # what Ray is told; a machine of two cores only takes longer
        yield


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-stage run, trained for a few steps."""
    root = tmp_path_factory.mktemp("runs")
    data = build_smoke_data(root)
    torch_engine = ("training.engine=torch", "training.epochs=3", "policy.initial_keep_prob=0.6")
    backbone = smoke_config(
        root,
        data,
        "training.engine=torch",
        "name=backbone",
        "policy={kind='none'}",
        "training.execution=dense",
    )
    config = smoke_config(root, data, *torch_engine, "init_from=backbone")
    for run in (backbone, config):
        open_run(run)
        train_here(run)
    let_scores_nearly_tie(best_good(config.folder / "checkpoints"))
    return config.folder


@pytest.fixture(scope="module")
def priced_run(run_folder: Path) -> Path:
    """A run whose policy predicts costs, beside the other."""
    root = run_folder.parent
    config = smoke_config(
        root,
        root / "data",
        "training.engine=torch",
        "name=priced",
        "policy={kind='cost', nest_sizes=[1, 2], width=8, target_keep_frac=0.5}",
    )
    open_run(config)
    train_here(config)
    return config.folder


def let_scores_nearly_tie(checkpoint: Path) -> None:
    """Makes the items so alike that the last bit of a score decides about ranks."""
    weights = load_file(checkpoint / WEIGHTS)
    draw = torch.Generator().manual_seed(0)
    head = weights["head.weight_VD"]
    weights["head.weight_VD"] = head.mean(0) + 3e-7 * torch.randn(head.shape, generator=draw)
    weights["head.bias_V"] = torch.full_like(weights["head.bias_V"], 0.1)
    save_file(weights, checkpoint / WEIGHTS)
    manifest = read_manifest(checkpoint)
    files = {**manifest.files, WEIGHTS: describe_file(checkpoint / WEIGHTS)}
    sealed = manifest.model_copy(update={"files": files})
    (checkpoint / MANIFEST).write_text(sealed.model_dump_json())


def describe_file(path: Path) -> CheckpointFile:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return CheckpointFile(bytes=path.stat().st_size, sha256=digest)


def evaluate(run_folder: Path, *overrides: str) -> tuple[pa.Table, dict]:
    config = evaluation_config(run_folder, [*QUICK, *overrides])
    report = evaluate_run(config, run_folder, "a test")
    TypeAdapter(Report).validate_json(report.read_text(), strict=True)
    return pq.read_table(run_folder / "per_user.parquet"), json.loads(report.read_text())


def without_times(table: pa.Table) -> pa.Table:
    return table.drop_columns([name for name in table.column_names if name.startswith("time_")])


def untimed(section: Any) -> Any:
    """Everything but the numbers that come from a clock."""
    if not isinstance(section, dict):
        return section
    return {name: value for name, value in section.items() if "time" not in name}


@pytest.fixture(scope="module")
def one_worker(run_folder: Path, session: None) -> tuple[pa.Table, dict]:
    return evaluate(run_folder, f"evaluation.batch_rows={TILE_ROWS}")


@pytest.mark.parametrize(("workers", "batch_rows"), [(0, 200), (2, TILE_ROWS), (3, 4096)])
def test_the_table_is_the_same_bit_for_bit(
    run_folder: Path, one_worker: tuple[pa.Table, dict], workers: int, batch_rows: int
) -> None:
    table, report = evaluate(
        run_folder, f"evaluation.num_workers={workers}", f"evaluation.batch_rows={batch_rows}"
    )
    assert table.num_rows > 3 * TILE_ROWS
    assert without_times(table).equals(without_times(one_worker[0]))
    assert {"rank_fixed_00", "rank_fixed_03", "rank_learned_00"} <= set(table.column_names)
    assert table.column("rank_fixed_01") != table.column("rank_fixed_03")
    for key in ("differences", "frontier", "policy", "flops"):
        assert untimed(report[key]) == untimed(one_worker[1][key])


def test_control_a_last_bit_would_have_been_seen(
    run_folder: Path, one_worker: tuple[pa.Table, dict]
) -> None:
    """Another rounding changes ranks; if it did not, equal tables would prove nothing."""
    config, network = load_network(run_folder)
    rows = ShardSet.open(Path(config.data.path), "train").slice(0, one_worker[0].num_rows)
    items_BW = torch.from_numpy(rows.items_RW.astype(np.int64))
    network = network.double()
    with torch.no_grad():
        history = network.embed(items_BW[:, :-1], torch.from_numpy(rows.row_R))
        x_BD = network.encode(history, None, "dense")[-1]
        head = network.head
        scores_BV = x_BD @ head.weight_VD.t() + head.bias_V
    target_B1 = scores_BV.gather(1, items_BW[:, -1:] - 1)
    exact_B = 1 + (scores_BV > target_B1).sum(1).numpy()
    found_B = np.asarray(one_worker[0].column("rank_all_blocks"))
    assert np.abs(exact_B - found_B).mean() < 20, "the same but for rounding"
    assert (exact_B != found_B).mean() > 0.2


def test_seen_items_leave_the_ranking_when_asked_to(
    run_folder: Path, one_worker: tuple[pa.Table, dict]
) -> None:
    some = ("evaluation.exclude_seen=true", "evaluation.max_rows=130")
    table, _ = evaluate(run_folder, *some, IN_THIS_PROCESS)
    assert table.num_rows == 130
    rank = dict(zip(table["row"].to_pylist(), table["rank_all_blocks"].to_pylist(), strict=True))
    before = one_worker[0]["rank_all_blocks"].to_pylist()
    assert np.mean([rank[row] < before[row] for row in rank]) > 0.3


def test_a_row_is_there_once_and_the_backbone_is_the_run_it_started_from(
    one_worker: tuple[pa.Table, dict],
) -> None:
    table, report = one_worker
    assert table.column("row").to_pylist() == list(range(table.num_rows))
    assert (np.asarray(table.column("rank_skiprec")) >= 1).all()
    assert not table.column("rank_full_backbone").equals(table.column("rank_all_blocks"))
    assert report["conditions"]["init_from"] == "backbone"
    assert table.column("time_skiprec_s").null_count == table.num_rows - 8


def test_a_backbone_alone_is_evaluated_too(run_folder: Path, session: None) -> None:
    folder = run_folder.parent / "backbone"
    table, report = evaluate(folder)
    assert [row["name"] for row in report["rows"]][-1] == "full_backbone"
    assert report["policy"] is None
    assert "keep" not in table.column_names


def test_a_price_is_set_anew_for_serving_and_at_any_number_of_workers(
    priced_run: Path, session: None
) -> None:
    quick = ("evaluation.timing_batches=[]", IN_THIS_PROCESS)
    as_trained, report = evaluate(priced_run, *quick)
    assert report["timing"] == {}
    assert "Times were not taken" in (priced_run / "report.md").read_text()
    assert report["conditions"]["device"] == "cpu"
    shares = {"as trained": report["policy"]["kept_blocks_mean"] / 4}
    tables = {}
    for keep_frac in (0.3, 0.8):
        tables[keep_frac], found = evaluate(priced_run, *quick, f"evaluation.keep_frac={keep_frac}")
        shares[keep_frac] = found["policy"]["kept_blocks_mean"] / 4
        # At the price that keeps so much of validation, no more of it is kept, and about as much.
        _, network = load_network(priced_run)
        network.policy.price_1.fill_(found["frontier"]["knob"]["served"])
        config = evaluation_config(priced_run, [])
        shards = ShardSet.open(Path(config.data.path), "validation")
        rows = read_tiles(shards, np.arange(shards.num_rows))[1]
        assert decide_unit(network, rows).keep_RL.mean() == pytest.approx(keep_frac, abs=0.1)
        # The curve is where it was: it belongs to the policy, not to the price of the day.
        learned = [name for name in as_trained.column_names if name.startswith("rank_learned")]
        assert learned
        for name in learned:
            assert tables[keep_frac].column(name).equals(as_trained.column(name))
    assert shares[0.3] < shares["as trained"] < shares[0.8]
    again, _ = evaluate(
        priced_run, quick[0], "evaluation.keep_frac=0.3", "evaluation.num_workers=2"
    )
    assert again.equals(tables[0.3])


def test_a_policy_without_a_price_cannot_be_asked_for_another_rate(run_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"keep_frac=0\.3 sets the price .*kind='gumbel'"):
        evaluate(run_folder, "evaluation.keep_frac=0.3")


def test_a_lost_actor_is_replaced_by_one_that_computes_the_same(
    run_folder: Path, session: None
) -> None:
    config = evaluation_config(run_folder, list(QUICK))
    job = Job(config, run_folder, Path(config.data.path))
    place_V = popularity_places(ShardSet.open(job.data_path, "train"))
    scorer = remote_class(Scorer, {"CPU": 1.0}).remote(job, place_V)
    unit = slice(0, 2 * TILE_ROWS)
    before = ray.get(scorer.decide.remote(unit))
    ray.kill(scorer, no_restart=False)
    after = ray.get(scorer.decide.remote(unit))
    ray.kill(scorer)
    assert np.array_equal(before.keep_RL, after.keep_RL)
    assert np.array_equal(before.numbers_RK, after.numbers_RK)


def test_a_report_is_whole_or_not_there(
    run_folder: Path, one_worker: tuple[pa.Table, dict]
) -> None:
    report = run_folder / "report.json"
    written = report.stat().st_mtime_ns
    names = {path.name for path in run_folder.iterdir()}
    assert "frontier.png" in names
    assert {"report.md", "per_user.parquet", "keep_heat_map.png", "speed_accuracy.png"} <= names
    for path in run_folder.iterdir():
        if path.suffix in (".md", ".png", ".parquet"):
            assert path.stat().st_mtime_ns <= written, "report.json comes last"
    with pytest.raises(
        ValueError, match=r"evaluation workers .* 4 CPU in all; Ray has .*room for 3"
    ):
        evaluate(run_folder, "evaluation.num_workers=4", f"evaluation.batch_rows={TILE_ROWS}")
    assert {path.name for path in run_folder.iterdir()} == names
    assert report.stat().st_mtime_ns == written


def test_what_cannot_be_evaluated_is_said_clearly(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the run is trained already"):
        evaluation_config(run_folder, ["model.num_blocks=3"])
    with pytest.raises(ValueError, match="is not a run's folder"):
        evaluation_config(tmp_path, [])
    with pytest.raises(ValueError, match=r"did you mean 'evaluation\.num_workers'"):
        evaluation_config(run_folder, ["evaluation.num_worker=2"])
