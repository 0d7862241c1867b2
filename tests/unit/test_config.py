"""Configurations cannot lie: unknown keys, options without effect and wrong values are errors."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from skiprec.config.files import (
    apply_overrides,
    changed_keys,
    config_hash,
    deciding_keys,
    load_config,
    saved_config,
)
from skiprec.config.run import RunConfig, backbone_config
from tests.testkit.configs import COST, GUMBEL, PLAIN, REINFORCE, config

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "jobs/configs").rglob("*.toml"))
CONFIGS = [path for path in SHIPPED if not path.name.startswith("sweep_")]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path: Path) -> None:
    loaded = load_config(path)
    assert loaded.name
    assert backbone_config(loaded).policy.kind == "none"


def test_there_are_shipped_configurations() -> None:
    assert {"smoke.toml", "exits.toml"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainig.epochs=3", r"unknown key 'trainig'; did you mean 'training'\?"),
        ("training.epoch=3", r"unknown key 'training.epoch'; did you mean 'training.epochs'\?"),
        ("pretraining.epoch=3", r"did you mean 'pretraining.epochs'\?"),
        ("model.num_block=3", r"did you mean 'model.num_blocks'\?"),
        ("model.zzz=3", r"unknown key 'model.zzz'; valid keys: backbone, num_blocks"),
        ("training.epochs=many", r"training.epochs: .*number"),
        ("training.epochs=0", r"training.epochs: .*greater than 0"),
        ("model.dropout=1", r"model.dropout: .*less than 1"),
        ("model.dilations=[]", r"model.dilations: .*at least 1"),
        ("model.dilations=[0]", r"model.dilations.0: .*greater than 0"),
        ("policy.kind=magic", r"policy.kind: .*'gumbel'"),
        ("policy.knd=gumbel", r"unknown key 'policy.knd'; did you mean 'policy.kind'\?"),
        ("loss.last_position_weight=0", r"loss.last_position_weight: .*greater than 0"),
        ("model.stochastic_depth=1", r"model.stochastic_depth: .*less than 1"),
        ("init_growth=twice", r"init_growth: .*'adjacent' or 'cross'"),
        ("name=../elsewhere", r"name: "),
        ("training=3", r"training: "),
    ],
)
def test_a_wrong_key_or_value_is_explained(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(override)


def test_every_error_is_told_at_once_with_its_source() -> None:
    with pytest.raises(ValueError, match=r"^here: ") as caught:
        config("model.wdth=8", "training.epochs=-1", source="here")
    assert "model.wdth" in str(caught.value)
    assert "training.epochs" in str(caught.value)


WITHOUT_EFFECT = [
    ("policy.encoder=conv", "policy.encoder has no effect with policy.kind='none'"),
    ("policy.keep_frac=0.5", "policy.keep_frac has no effect"),
    ("policy.keep_blocks=[1]", "policy.keep_blocks has no effect"),
    ("policy.own_embedding=false", "policy.own_embedding has no effect"),
    ("policy.noise_at_inference=false", "policy.noise_at_inference has no effect"),
    ("policy.target_keep_frac=0.5", "policy.target_keep_frac has no effect"),
    ("policy.budget_weight=1", "policy.budget_weight has no effect"),
    ("loss.negatives=uniform", "loss.negatives has no effect with loss.kind='full'"),
    ("loss.negative_sets=4", "loss.negative_sets has no effect with loss.kind='full'"),
    ("loss.num_negatives=10", "loss.num_negatives has no effect with loss.kind='full'"),
    ("training.policy_learning_rate=1", "training.policy_learning_rate has no effect"),
    ("training.execution=masked", "needs a policy"),
    ("training.execution=gathered", "needs a policy"),
    ("training.freeze_backbone=true", "leaves nothing to train"),
    ("training.patience=2", "training.patience needs training.validate_every_steps"),
    ("data.inputs=['a.csv']", "data.inputs has no effect without data.recipe"),
    ("policy.nest_sizes=[4]", "policy.nest_sizes has no effect with policy.kind='none'"),
    ("policy.beta=1", "policy.beta has no effect with policy.kind='none'"),
    ("loss.exit_weight=1", "loss.exit_weight has no effect without model.exits"),
    ("loss.teacher=mean", "loss.teacher has no effect without model.exits"),
    ("init_growth=adjacent", "init_growth has no effect without init_from"),
]


@pytest.mark.parametrize(("override", "message"), WITHOUT_EFFECT)
def test_an_option_without_effect_is_an_error(override: str, message: str) -> None:
    config()  # the control: without the option all is well
    with pytest.raises(ValueError, match=message):
        config(override)


@pytest.mark.parametrize(
    ("learned", "option"),
    [
        (GUMBEL, "beta=0.5"),
        (GUMBEL, "nest_sizes=[4]"),
        (GUMBEL, "prob_bound=0.9"),
        (REINFORCE, "temperature_start=1"),
        (REINFORCE, "budget_weight=1"),
        (REINFORCE, "information_weight=1"),
        (REINFORCE, "cost_weight=1"),
        (COST, "beta=0.5"),
        (COST, "logits=raw"),
        (COST, "initial_keep_prob=0.5"),
    ],
)
def test_options_of_one_learned_policy_have_no_effect_on_another(
    learned: tuple[str, ...], option: str
) -> None:
    kind = config(*learned).policy.kind  # the control
    name = option.partition("=")[0]
    with pytest.raises(ValueError, match=rf"policy\.{name} has no effect .*kind='{kind}'"):
        config(*learned, f"policy.{option}")


@pytest.mark.parametrize("option", ["keep_frac=0.5", "keep_blocks=[1]"])
def test_options_of_a_control_have_no_effect_on_a_learned_policy(option: str) -> None:
    with pytest.raises(ValueError, match=r"has no effect with policy\.kind='gumbel'"):
        config(*GUMBEL, f"policy.{option}")


@pytest.mark.parametrize("kind", ["keep_all", "random", "fixed"])
@pytest.mark.parametrize("option", ["encoder=conv", "width=8", "temperature_start=1", "logits=raw"])
def test_options_of_a_learned_policy_have_no_effect_on_a_control(kind: str, option: str) -> None:
    needed = ["policy.keep_blocks=[0]"] if kind == "fixed" else []
    config(f"policy.kind={kind}", "training.execution=masked", *needed)
    with pytest.raises(ValueError, match=f"has no effect with policy.kind='{kind}'"):
        config(f"policy.kind={kind}", "training.execution=masked", *needed, f"policy.{option}")


def test_defaults_of_a_learned_policy_are_filled_in_and_saved() -> None:
    policy = config(*GUMBEL).policy
    assert (policy.encoder, policy.logits, policy.initial_keep_prob) == ("conv", "raw", 0.85)
    assert config(*GUMBEL, "policy.logits=sigmoid").policy.initial_keep_prob == 0.5
    again = RunConfig.model_validate(config(*GUMBEL).model_dump())
    assert again == config(*GUMBEL)
    for learned in (REINFORCE, COST, ("policy.kind=random", "training.execution=masked")):
        assert RunConfig.model_validate(config(*learned).model_dump()) == config(*learned)
    assert config().policy.model_dump() == {"kind": "none"}, "and only those of the kind"


def test_learned_policies_run_under_either_execution_that_skips() -> None:
    for learned in (REINFORCE, COST):
        for execution in ("masked", "gathered"):
            run = config(*learned, f"training.execution={execution}")
            assert run.training.execution == execution


def test_the_deepest_set_of_a_nest_may_be_named_or_left_out() -> None:
    assert config(*COST, "policy.nest_sizes=[4, 16]").policy.nest_sizes == (4, 16)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epochs=2.5", 2.5),
        ("training.epochs=3", 3.0),
        ("model.dilations=[1, 2, 4]", (1, 2, 4)),
        ("training.activation_checkpointing=true", True),
        ("root=/some/where", "/some/where"),
        ('root="quoted"', "quoted"),
        ("init_from=other-run", "other-run"),
        ("data.path=a=b", "a=b"),
    ],
)
def test_an_override_is_toml_or_bare_text(override: str, expected: Any) -> None:
    value: Any = config(override)
    for part in override.partition("=")[0].split("."):
        value = getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)


def test_overrides_leave_their_source_alone_and_the_last_one_wins() -> None:
    tree = apply_overrides(PLAIN, ["model.width=8", "model.width=16"])
    assert tree["model"] == {"width": 16}
    assert PLAIN == {"name": "run", "data": {"path": "data"}}


def test_an_empty_override_takes_a_key_out() -> None:
    bonus = "policy.entropy_weight=0.1"
    assert config(*GUMBEL, bonus, "policy.entropy_weight=") == config(*GUMBEL)
    assert config("model.width=") == config()


def test_a_base_is_refined_section_by_section_and_another_kind_starts_afresh(
    tmp_path: Path,
) -> None:
    (tmp_path / "base.toml").write_text(
        "name='base'\n[data]\npath='d'\n[model]\nwidth=8\nnum_blocks=4\n"
        "[policy]\nkind='gumbel'\nwidth=4\n[training]\nexecution='masked'\n"
    )
    (tmp_path / "finer.toml").write_text(
        "base='base.toml'\nname='finer'\n[model]\nwidth=16\n[policy]\nentropy_weight=0.2\n"
    )
    (tmp_path / "other.toml").write_text(
        "base='finer.toml'\nname='other'\n[policy]\nkind='random'\n[training]\nseed=3\n"
    )
    finer = load_config(tmp_path / "finer.toml")
    assert (finer.name, finer.model.width, finer.model.num_blocks) == ("finer", 16, 4)
    assert (finer.policy.kind, finer.policy.width, finer.policy.entropy_weight) == (
        "gumbel",
        4,
        0.2,
    )
    other = load_config(tmp_path / "other.toml")
    assert (other.model.width, other.policy.kind) == (16, "random")
    assert (other.training.seed, other.training.execution) == (3, "masked")


def test_a_base_that_leads_nowhere_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("base='b.toml'\nname='a'\n")
    (tmp_path / "b.toml").write_text("base='a.toml'\nname='b'\n")
    (tmp_path / "c.toml").write_text("base=['b.toml']\nname='c'\n")
    with pytest.raises(ValueError, match="is its own base, by way of"):
        load_config(tmp_path / "a.toml")
    with pytest.raises(ValueError, match="expected the name of another configuration file"):
        load_config(tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "expected dotted.key=value"),
        ("name.inner=3", "'name' is a value, not a section"),
    ],
)
def test_a_malformed_override_is_explained(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(override)


def test_a_file_that_cannot_be_read_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no configuration file at"):
        load_config(tmp_path / "absent.toml")
    with pytest.raises(ValueError, match="no configuration file at"):
        load_config(tmp_path)
    torn = tmp_path / "torn.toml"
    torn.write_text("name = 'x'\n[data\n")
    with pytest.raises(ValueError, match=r"torn.toml is not valid TOML: .*line 2"):
        load_config(torn)


def test_a_configuration_does_not_change() -> None:
    run = config()
    with pytest.raises(ValidationError, match="frozen"):
        run.name = "other"
    with pytest.raises(ValidationError, match="frozen"):
        run.model.width = 3


def test_the_hash_sees_what_is_trained_and_nothing_else() -> None:
    plain = config_hash(config())
    same = ("name=other", "root=/elsewhere", "evaluation.batch_rows=7", "pretraining.epochs=9")
    same += ("cluster.num_workers=2", "cluster.zero_stage=3")
    for override in same:
        assert config_hash(config(override)) == plain, override
    different = ("model.width=8", "training.seed=1", "data.path=x", "loss.last_position_weight=0.1")
    assert len({plain, *(config_hash(config(override)) for override in different)}) == 5


def test_changed_keys_are_named_with_both_values() -> None:
    old = deciding_keys(config())
    new = deciding_keys(config("model.width=8", "training.seed=1"))
    assert changed_keys(old, new) == ["model.width: 64 -> 8", "training.seed: 0 -> 1"]
    assert changed_keys(old, old) == []
    assert changed_keys({"a": {"b": 1}}, {}) == ["a: {'b': 1} -> None"]


def test_the_backbone_s_run_trains_every_block_without_a_policy() -> None:
    run = config(
        *GUMBEL,
        "init_from=my-backbone",
        "pretraining.epochs=7",
        "training.policy_learning_rate=0.1",
        "training.freeze_backbone=true",
        "model.num_blocks=5",
    )
    backbone = backbone_config(run)
    assert (backbone.name, backbone.init_from) == ("my-backbone", None)
    assert (backbone.policy.kind, backbone.training.execution) == ("none", "dense")
    assert backbone.training.epochs == 7
    assert backbone.model == run.model
    assert backbone.pretraining is None
    for option in ("init_items=fresh", "init_growth=adjacent", "training.epochs=2"):
        warm = config("init_from=monday", option)
        assert backbone_config(warm) == warm, "it begins with another run, under its own name"
    plain = config("training.epochs=3")
    assert backbone_config(plain) == plain, "a backbone's own configuration names its run"
    alone = backbone_config(config(*GUMBEL, "training.epochs=3"))
    assert alone.name == "run-backbone"
    assert alone.training.epochs == 3


def test_a_run_s_folder_is_its_name_under_its_root() -> None:
    assert config("root=a/b", "name=c").folder == Path("a/b/c")


def test_a_saved_configuration_may_have_keys_that_were_removed_since(tmp_path: Path) -> None:
    saved = config(*GUMBEL)
    file = tmp_path / "config.json"
    tree = json.loads(saved.model_dump_json())
    tree["model"]["gone"] = tree["gone"] = tree["policy"]["gone"] = None
    file.write_text(json.dumps(tree))
    assert saved_config(file) == saved
    assert saved_config(file, ["evaluation.max_rows=7"]).evaluation.max_rows == 7
    tree["model"]["gone"] = True
    file.write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=r"config\.json: unknown key 'model\.gone'"):
        saved_config(file)
