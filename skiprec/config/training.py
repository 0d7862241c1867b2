"""`[training]`: steps, learning rates, validation and checkpoints."""

from typing import Literal

from pydantic import Field

from skiprec.config.section import Section


class TrainingConfig(Section):
    """Length of the training, size and learning rate of its steps, validations and checkpoints."""

    epochs: float = Field(1.0, gt=0)
    """Length of the training, in passes over the training rows. It may be a fraction."""
    global_batch_rows: int = Field(128, ge=1)
    """Number of rows in one optimizer step, over all workers."""
    micro_batch_rows: int | None = Field(None, ge=1)
    """Largest number of rows that a worker computes at once (gradient accumulation). None: its
    whole share of the global batch."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of the optimizer."""
    policy_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of the policy's weights. None: `learning_rate`."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of AdamW."""
    warmup_steps: int = Field(0, ge=0)
    """Number of steps in which the learning rate grows linearly from near 0 to its peak."""
    final_lr_frac: float = Field(1.0, ge=0, le=1)
    """Learning rate of the last step as a share of the peak; the rate falls to it along a
    cosine."""
    grad_clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the gradient; a larger gradient is scaled down. None: no clipping."""
    item_optimizer: Literal["sparse_adam"] | None = None
    """Optimizer of the item tables. `sparse_adam` updates only the rows of items in a step's batch
    and negatives, so a step costs the same for any catalogue. None: AdamW updates all rows."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Floating-point format of weights and activations. `bf16` keeps float32 master weights,
    too."""
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    """Engine that owns weights and optimizer. `deepspeed`: DeepSpeed on any number of workers.
    `torch`: plain PyTorch in a single process, the readable reference."""
    execution: Literal["dense", "masked", "gathered"] = "dense"
    """How blocks run in training. `dense`: every block runs; only without a policy. `masked`:
    every block runs, and the output of a skipped block is multiplied by 0. `gathered`: a block
    runs only on the rows that keep it."""
    activation_checkpointing: bool = False
    """Whether a block's activations are recomputed in the backward pass instead of stored."""
    freeze_backbone: bool = False
    """Whether only the policy is trained. Needs `init_from`."""
    fit_on: Literal["held_out"] | None = None
    """Rows that the policy is trained on. `held_out`: half of the users of the validation split;
    the other half is validated. Of a row that reaches back to items of training rows, only the
    items behind these count. Needs `freeze_backbone`. None: the training split."""
    log_every_steps: int = Field(20, ge=1)
    """Number of steps between two lines of the log."""
    validate_every_steps: int | None = Field(None, ge=1)
    """Number of steps between two validations. None: one validation, after the last step."""
    validation_rows: int | None = Field(None, ge=1)
    """Number of validation rows, spread evenly over the validation split. None: all its rows."""
    checkpoint_every_steps: int | None = Field(None, ge=1)
    """Number of steps between two checkpoints, beside the checkpoint after each validation. None:
    only these."""
    keep_checkpoints: int = Field(2, ge=1)
    """Number of newest checkpoints that stay on disk. The best checkpoint stays, too."""
    patience: int | None = Field(None, ge=1)
    """Early stopping: number of validations in a row without a better MRR@20 after which training
    stops. None: train to the end."""
    seed: int = 0
    """Seed of the initial weights, of the order of rows, and of all noise."""
