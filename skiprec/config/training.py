"""`[training]`: steps, learning rates, validation and checkpoints."""

from typing import Literal

from pydantic import Field

from skiprec.config.section import Section


class TrainingConfig(Section):
    """How long a run trains, how large and how fast its steps are, and what it saves."""

    epochs: float = Field(1.0, gt=0)
    """Length of the training, in passes over the training rows. A fraction is allowed."""
    global_batch_rows: int = Field(128, ge=1)
    """Rows of one optimizer step, over all workers."""
    micro_batch_rows: int | None = Field(None, ge=1)
    """Most rows that a worker computes at once (gradient accumulation). None: its whole share."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    policy_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of the policy's weights. None: `learning_rate`."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of AdamW."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate grows linearly from 0 to its peak."""
    final_lr_frac: float = Field(1.0, ge=0, le=1)
    """Learning rate of the last step as a share of the peak; the rate falls to it along a
    cosine."""
    grad_clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the gradient; a larger gradient is scaled down. None: no clipping."""
    item_optimizer: Literal["sparse_adam"] | None = None
    """Optimizer of the item tables. `sparse_adam` moves only the rows that a step's batch and
    negatives touch, so a step costs the same for any catalogue. None: AdamW moves all rows."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Floating-point format of weights and activations. bf16 keeps float32 master weights."""
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    """`deepspeed`, or `torch`: plain PyTorch in a single process, the readable reference."""
    execution: Literal["dense", "masked", "gathered"] = "dense"
    """How blocks run in training. `dense`: every block, without a policy. `masked`: every block
    runs and a skipped one is multiplied by 0. `gathered`: a block runs on the rows that keep it."""
    activation_checkpointing: bool = False
    """Whether a block's activations are recomputed in the backward pass instead of stored."""
    freeze_backbone: bool = False
    """Whether the policy alone is trained; needs `init_from`."""
    log_every_steps: int = Field(20, ge=1)
    """Steps between two lines of the log."""
    validate_every_steps: int | None = Field(None, ge=1)
    """Steps between two validations. None: only after the last step."""
    validation_rows: int | None = Field(None, ge=1)
    """Rows of a validation, spread evenly over the validation split. None: all of its rows."""
    checkpoint_every_steps: int | None = Field(None, ge=1)
    """Steps between two checkpoints, beside the checkpoint after each validation."""
    keep_checkpoints: int = Field(2, ge=1)
    """Number of newest checkpoints that stay on disk; the best one stays, too."""
    patience: int | None = Field(None, ge=1)
    """Early stopping: validations in a row without a better MRR@20. None: train to the end."""
    seed: int = 0
    """Seed of the first weights, of the order of the rows and of all noise."""
