"""The schema of a run: frozen models, unknown keys are errors, units are in the names.

A run is one TOML file plus `--set dotted.key=value` overrides; `skiprec.config.files` reads it.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from skiprec.config.cluster import ClusterConfig
from skiprec.config.data import DataConfig
from skiprec.config.evaluation import EvaluationConfig
from skiprec.config.loss import LossConfig
from skiprec.config.model import ModelConfig
from skiprec.config.section import Section
from skiprec.config.training import TrainingConfig
from skiprec.policy.kinds import NO_POLICY, PolicyConfig, policy_section


class RunConfig(Section):
    """One run. Its folder is `<root>/<name>`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and of its folder: letters, digits, dots, underscores and hyphens."""
    root: str = "runs"
    """Folder that holds the folders of runs."""
    init_from: str | None = None
    """Run under the same root whose best backbone this run starts from (two-stage). None: random
    weights (one-stage)."""
    init_growth: Literal["adjacent", "cross"] | None = None
    """Lets the run named by `init_from` have fewer blocks, which are copied (StackRec): in the
    order 1 1 2 2 (`adjacent`) or 1 2 1 2 (`cross`). None: the number of blocks must be the same."""
    data: DataConfig
    """The dataset."""
    model: ModelConfig = ModelConfig()
    """The backbone."""
    policy: PolicyConfig = policy_section(NO_POLICY)
    """The policy that keeps or skips blocks."""
    loss: LossConfig = LossConfig()
    """The loss of the backbone."""
    training: TrainingConfig = TrainingConfig()
    """Steps, learning rates, validation and checkpoints."""
    pretraining: TrainingConfig | None = None
    """The `[training]` section of the backbone's own run, where it should differ."""
    cluster: ClusterConfig = ClusterConfig()
    """What the run asks of Ray and DeepSpeed."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is evaluated and timed."""

    @model_validator(mode="before")
    @classmethod
    def _no_kind_is_no_policy(cls, tree: Any) -> Any:
        policy = tree.get("policy") if isinstance(tree, dict) else None
        if isinstance(policy, dict) and "kind" not in policy:
            return {**tree, "policy": {"kind": NO_POLICY, **policy}}
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
    policy, execution = config.policy, config.training.execution
    if not policy.decides and execution != "dense":
        raise ValueError(
            f"training.execution={execution!r} needs a policy; "
            f"without one (policy.kind={policy.kind!r}) use 'dense'"
        )
    if policy.decides and execution == "dense":
        raise ValueError(
            f"policy.kind={policy.kind!r} decides nothing under "
            "training.execution='dense'; use 'masked' (or 'gathered')"
        )
    if not policy.trains_gathered and execution == "gathered":
        raise ValueError(
            f"policy.kind={policy.kind!r} learns through the outputs of skipped blocks, which "
            "training.execution='gathered' does not compute; use 'masked'"
        )


def _check_policy(config: RunConfig) -> None:
    policy = config.policy
    policy.check(config.model, config.loss)
    if config.evaluation.keep_frac is not None and not policy.has_serving_knob:
        raise ValueError(
            f"evaluation.keep_frac={config.evaluation.keep_frac} sets the price of a policy that "
            f"predicts costs, and policy.kind={policy.kind!r} has none; remove it"
        )
    if config.init_growth is not None and policy.decides:
        raise ValueError(
            f"init_growth with policy.kind={policy.kind!r}: grow the backbone in a run of its own "
            "first, then start the policy from that"
        )
    if config.model.stochastic_depth is not None and policy.decides:
        raise ValueError(
            f"model.stochastic_depth has no effect with policy.kind={policy.kind!r}, which decides "
            "what is left out; set it for the backbone's own run"
        )


def _check_training(config: RunConfig) -> None:
    training, cluster = config.training, config.cluster
    is_learned = config.policy.is_learned
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
            "policy": {"kind": NO_POLICY},
            "evaluation": config.evaluation.model_copy(update={"keep_frac": None}).model_dump(),
            "training": plain.model_dump(),
            "pretraining": None,
        }
    )
