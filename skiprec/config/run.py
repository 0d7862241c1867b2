"""The schema of a run's configuration: its sections, and the checks that concern several sections.

A configuration is one TOML file plus overrides `--set dotted.key=value`. `skiprec.config.files`
reads both. Units are in the names of keys.
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
    """The configuration of one run. The folder of the run is `<root>/<name>`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and of its folder: letters, digits, dots, underscores and hyphens."""
    root: str = "runs"
    """Folder that holds the folders of all runs."""
    init_from: str | None = None
    """Name of a run under the same root; this run starts from its best backbone (two-stage). None:
    random weights (one-stage)."""
    init_growth: Literal["adjacent", "cross"] | None = None
    """Order of block copies if the run `init_from` has fewer blocks (StackRec). `adjacent`: 1 1 2
    2. `cross`: 1 2 1 2. None: that run must have the same number of blocks."""
    init_items: Literal["fresh", "neighbours"] | None = None
    """What happens if the run `init_from` was trained on another catalogue. Items that both have
    keep their vectors, and those that are gone are dropped. A new item begins with random values
    (`fresh`) or with the mean of the items beside it in the training rows (`neighbours`). None: the
    catalogue must be the same."""
    data: DataConfig
    """Dataset that the run trains on."""
    model: ModelConfig = ModelConfig()
    """Architecture of the backbone or baseline."""
    policy: PolicyConfig = policy_section(NO_POLICY)
    """Policy that keeps or skips blocks."""
    loss: LossConfig = LossConfig()
    """Loss of the backbone or baseline."""
    training: TrainingConfig = TrainingConfig()
    """Steps, learning rates, validation and checkpoints."""
    pretraining: TrainingConfig | None = None
    """The `[training]` section of the run that pretrains the backbone. It replaces that section as
    a whole. None: the same `[training]`."""
    cluster: ClusterConfig = ClusterConfig()
    """Workers and resources of Ray, and settings of DeepSpeed."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Rows that are scored, and batch sizes that are timed."""

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
        _check_exits(self)
        _check_training(self)
        return self

    @property
    def folder(self) -> Path:
        """The folder that holds all files of this run."""
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
            f"policy.kind={policy.kind!r} decides nothing under training.execution='dense', which "
            "runs every block; use 'masked' (or 'gathered')"
        )
    if not policy.trains_gathered and execution == "gathered":
        raise ValueError(
            f"policy.kind={policy.kind!r} learns through the outputs of skipped blocks, which "
            "training.execution='gathered' does not compute; use 'masked'"
        )


def _check_policy(config: RunConfig) -> None:
    policy = config.policy
    policy.check(config.model, config.loss)
    if config.evaluation.keep_frac is not None and not policy.has_price_knob:
        raise ValueError(
            f"evaluation.keep_frac={config.evaluation.keep_frac} sets the price of a policy that "
            f"predicts costs, and policy.kind={policy.kind!r} has none; remove it"
        )
    if config.init_growth is not None and policy.decides:
        raise ValueError(
            f"init_growth does not work with policy.kind={policy.kind!r}: grow the backbone in a "
            "run of its own first, then start the policy from that run"
        )
    if config.model.stochastic_depth is not None and policy.decides:
        raise ValueError(
            f"model.stochastic_depth has no effect with policy.kind={policy.kind!r}, which decides "
            "which blocks are left out; set it in the run of the backbone"
        )


def _check_exits(config: RunConfig) -> None:
    options = config.loss.set_exit_options
    if options and config.model.exits is None:
        raise ValueError(f"loss.{options[0]} has no effect without model.exits; remove it")
    exits = config.model.exits or ()
    if config.loss.exits_per_step is not None and len(exits) <= 3:
        raise ValueError(
            f"loss.exits_per_step has no effect with the {len(exits) - 1} shallower exits of "
            f"model.exits={list(exits)}, all of which each step trains; remove it"
        )
    if config.init_growth is not None and config.model.exits is not None:
        raise ValueError(
            "init_growth doubles the blocks of a network, whose exits then lie at other depths; "
            "remove model.exits"
        )
    if config.loss.teacher == "mean" and config.model.cosine_temperature is not None:
        raise ValueError(
            "loss.teacher='mean' averages scores that are dot products; with "
            "model.cosine_temperature they are none: remove one of the two"
        )
    if options and config.policy.decides:
        raise ValueError(
            f"loss.{options[0]} has no effect with policy.kind={config.policy.kind!r}: exits are "
            "trained in a run without a policy; set it in the run that init_from names"
        )


def _check_training(config: RunConfig) -> None:
    training, cluster = config.training, config.cluster
    is_learned = config.policy.is_learned
    if training.policy_learning_rate is not None and not is_learned:
        raise ValueError(
            f"training.policy_learning_rate has no effect with policy.kind={config.policy.kind!r}, "
            "which has no weights; remove it"
        )
    if training.freeze_backbone and not is_learned:
        raise ValueError(
            "training.freeze_backbone leaves nothing to train without a learned policy; remove it"
        )
    if training.freeze_backbone and config.init_from is None:
        raise ValueError(
            "training.freeze_backbone without init_from freezes random blocks, from which no "
            "policy can learn; name a pretrained run in init_from"
        )
    if training.fit_on is not None and not training.freeze_backbone:
        raise ValueError(
            f"training.fit_on={training.fit_on!r} would train the backbone on validation rows; set "
            "training.freeze_backbone=true"
        )
    if config.init_growth is not None and config.init_from is None:
        raise ValueError("init_growth has no effect without init_from; name the shallower run")
    if config.init_items is not None and config.init_from is None:
        raise ValueError("init_items has no effect without init_from; name the older run")
    if training.engine == "torch" and (cluster.num_workers > 1 or cluster.zero_stage > 0):
        raise ValueError(
            "training.engine='torch' is the single-process reference: it needs "
            "cluster.num_workers=0 or 1 and cluster.zero_stage=0; use 'deepspeed'"
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
            f"cluster.offload={cluster.offload!r} moves the data that ZeRO partitions: it needs "
            f"cluster.zero_stage={needed} or more"
        )
    if training.item_optimizer is not None:
        _check_item_optimizer(config)
    if training.patience is not None and training.validate_every_steps is None:
        raise ValueError(
            "training.patience needs training.validate_every_steps, because it counts validations"
        )


def _check_item_optimizer(config: RunConfig) -> None:
    training = config.training
    name = f"training.item_optimizer={training.item_optimizer!r}"
    if config.loss.kind == "full":
        raise ValueError(
            f"{name} has no effect with loss.kind='full', which gives every item a gradient; set "
            "loss.kind='sampled' and loss.num_negatives"
        )
    if config.model.tied_items:
        raise ValueError(
            f"{name} needs gradients of single rows, and model.tied_items gives one table the "
            "gradients of inputs and of scores; set one of the two"
        )
    if config.model.cosine_temperature is not None:
        raise ValueError(
            f"{name} needs gradients of single rows, and model.cosine_temperature normalises the "
            "whole table; set one of the two"
        )
    if training.weight_decay > 0:
        raise ValueError(
            f"{name} moves only the rows that a step touches, but training.weight_decay="
            f"{training.weight_decay} moves all rows; set one of the two"
        )
    if training.grad_clip_norm is not None:
        raise ValueError(
            f"{name} steps apart from the other weights, so training.grad_clip_norm="
            f"{training.grad_clip_norm} cannot clip the whole gradient; set one of the two"
        )


def backbone_config(config: RunConfig) -> RunConfig:
    """The configuration of the run that pretrains the backbone of `config`, without a policy.

    If `config` has no policy, it is that of a backbone and stays as it is. Else `init_from` is the
    name of the run.
    """
    if not config.policy.decides:
        return config
    training = config.pretraining or config.training
    plain_training = training.model_copy(
        update={
            "execution": "dense",
            "policy_learning_rate": None,
            "freeze_backbone": False,
            "fit_on": None,
        }
    )
    return RunConfig.model_validate(
        config.model_dump()
        | {
            "name": config.init_from or f"{config.name}-backbone",
            "init_from": None,
            "init_growth": None,
            "init_items": None,
            "policy": {"kind": NO_POLICY},
            "evaluation": config.evaluation.model_copy(update={"keep_frac": None}).model_dump(),
            "training": plain_training.model_dump(),
            "pretraining": None,
        }
    )
