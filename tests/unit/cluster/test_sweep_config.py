"""Which sweeps are valid, and the run that follows from the settings of a trial."""

from pathlib import Path
from typing import Any

import pytest

from cluster.sweeps.sweep import Range, SweepConfig, load_sweep, trial_config
from skiprec.config.files import apply_overrides, config_toml, load_config, parse_config, read_tree
from skiprec.config.section import Section
from tests.testkit.runs import REPOSITORY, SMOKE

SHIPPED = sorted((REPOSITORY / "jobs/configs").glob("sweep_*.toml"))
RATES = {"training.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}}
ASHA = {"num_trials": 2, "max_samples": 640, "report_samples": 128, "grace_samples": 128}


def sweep(**options: Any) -> SweepConfig:
    return SweepConfig.model_validate({"name": "s", "space": RATES, **ASHA, **options})


@pytest.mark.parametrize("section", [SweepConfig, Range])
def test_every_key_is_described_in_a_sentence(section: type[Section]) -> None:
    assert section.model_fields
    for name, field in section.model_fields.items():
        description = field.description or ""
        assert description[:1].isupper(), name
        assert description.endswith("."), name
        assert len(description.split()) >= 3, name


def test_a_key_without_a_sentence_below_it_has_no_description() -> None:
    class Undescribed(Section):
        key: int = 0

    assert Undescribed.model_fields["key"].description is None, "a control for the test above"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_sweep_of_the_repository_can_be_read(path: Path) -> None:
    assert load_sweep(path).name == path.stem


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objectives": ["mrr@20", "flops_speedup"]}, "ranks by one"),
        ({"objectives": ["mrr@20", "mrr@20"]}, "names one twice"),
        ({"grace_samples": None}, "grace_samples=None"),
        ({"scheduler": "none"}, "no other has a use for it"),
        ({"scheduler": "pbt", "grace_samples": None}, "perturb_samples=None"),
        ({"space": {}}, "space is empty"),
        ({"space": {"policy.width": []}}, "empty list"),
        ({"space": {"policy.width": {"low": 2, "high": 1}}}, "expected low < high"),
        ({"space": {"policy.width": {"low": 0, "high": 1, "log": True}}}, "above 0 with log"),
        ({"space_of": {"gumble": RATES}}, "space_of.gumble: expected one of"),
        ({"searcher": "optuna", "scheduler": "pbt"}, "makes its own suggestions"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(**options)


def test_a_trial_is_the_configuration_with_its_settings_and_its_budget_in_samples() -> None:
    trees = {"gumbel": read_tree(SMOKE)}
    drawn = {"training.learning_rate": 0.005, "training.global_batch_rows": 32}
    trial = trial_config(sweep(), trees, drawn, "s-00000", num_rows={None: 644})
    assert (trial.name, trial.training.learning_rate) == ("s-00000", 0.005)
    assert trial.training.epochs * 644 / 32 == pytest.approx(640 / 32 - 0.5)  # 20 steps
    assert trial.training.validate_every_steps == 128 // 32


def test_a_trial_that_is_fitted_on_fewer_rows_takes_as_many_samples() -> None:
    trees = {
        "gumbel": read_tree(SMOKE),
        "cost": read_tree(REPOSITORY / "jobs/configs/chess/cost_state.toml"),
    }
    num_rows: dict[str | None, int] = {None: 644, "held_out": 40}
    for kind, rows in (("gumbel", 644), ("cost", 40)):
        drawn = {"policy.kind": kind, "training.global_batch_rows": 32}
        trial = trial_config(sweep(), trees, drawn, "s-00000", num_rows)
        assert trial.policy.kind == kind
        assert trial.training.epochs * rows / 32 == pytest.approx(640 / 32 - 0.5)


def test_a_choice_may_be_a_list() -> None:
    lists = sweep(space={"policy.nest_sizes": [[2, 4], [4, 8]], "policy.width": [16]})
    drawable = lists.dimensions(["cost"])["policy.nest_sizes"]
    assert drawable == ("[2, 4]", "[4, 8]"), "searchers know no lists"
    trees = {"cost": read_tree(REPOSITORY / "jobs/configs/chess/cost_state.toml")}
    for text, sizes in zip(drawable, [(2, 4), (4, 8)], strict=True):
        drawn = {"policy.nest_sizes": text, "policy.width": 16}
        trial = trial_config(lists, trees, drawn, "s-00000", {"held_out": 40})
        assert trial.policy.nest_sizes == sizes
        assert trial.policy.width == 16


def test_a_kind_of_policy_draws_its_own_keys() -> None:
    gumbel, rl = {"policy.target_keep_frac": [0.3]}, {"policy.gamma": [2.0]}
    both = sweep(space_of={"gumbel": gumbel, "reinforce": rl})
    trees = {
        "gumbel": read_tree(SMOKE),
        "reinforce": read_tree(REPOSITORY / "jobs/configs/synthetic/rl_pre.toml"),
    }
    drawn = {
        "training.learning_rate": 0.005,
        "gumbel:policy.target_keep_frac": 0.3,
        "reinforce:policy.gamma": 2.0,
    }
    assert both.dimensions(list(trees)).keys() == {"policy.kind", *drawn}
    assert "reinforce:policy.gamma" not in both.dimensions(["gumbel"])
    trial = trial_config(both, trees, drawn | {"policy.kind": "reinforce"}, "s-1", {None: 644})
    assert (trial.policy.kind, trial.policy.gamma) == ("reinforce", 2.0)  # type: ignore[union-attr]
    trial = trial_config(both, trees, drawn | {"policy.kind": "gumbel"}, "s-1", {None: 644})
    assert trial.policy.target_keep_frac == 0.3  # type: ignore[union-attr]


def test_what_pbt_perturbs_stays_within_its_range() -> None:
    drawn = {"training.learning_rate": 0.012, "policy.width": 48}
    assert sweep().within(drawn) == {"training.learning_rate": 0.01, "policy.width": 48}


def test_a_configuration_written_as_toml_is_read_back_as_it_is(tmp_path: Path) -> None:
    configs = [*(REPOSITORY / "jobs/configs").rglob("*.toml")]
    for path in configs:
        if path in SHIPPED or path.stem == "common":
            continue
        config = load_config(path)
        written = tmp_path / f"{path.stem}.toml"
        written.write_text(config_toml(config))
        assert load_config(written) == config, path


def test_strings_and_lists_survive_the_toml(tmp_path: Path) -> None:
    awkward = 'a "quoted" \\ näme\n'
    tree = apply_overrides(read_tree(SMOKE), ["model.dilations=[1, 2]"])
    config = parse_config(tree | {"data": {"path": awkward}}, "test")
    written = tmp_path / "c.toml"
    written.write_text(config_toml(config))
    assert load_config(written) == config
