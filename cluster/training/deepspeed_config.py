"""The dictionary that DeepSpeed is given: derived from the run's configuration, never by hand."""

from typing import Any

from skiprec.config.cluster import ClusterConfig
from skiprec.config.training import TrainingConfig

# The default is 5e8 elements, 2 GB in float32, which a worker of this size never fills.
BUCKET_ELEMENTS = 5_000_000
OFFLOADED = {"optimizer": ("optimizer", "parameters"), "param": ("parameters",)}


def deepspeed_config(
    training: TrainingConfig, cluster: ClusterConfig, passes: int, world_size: int
) -> dict[str, Any]:
    """DeepSpeed's configuration for `passes` micro-batches a step on each of `world_size` ranks.

    Batch sizes are formal: our loss is divided by counts of the global batch already, and
    `DeepSpeedEngine` undoes DeepSpeed's own averaging over passes and ranks.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": passes,
        "train_batch_size": passes * world_size,
        # Its default is 1.0 since 0.19: an unset clip would clip.
        "gradient_clipping": training.grad_clip_norm or 0.0,
        "bf16": {"enabled": training.precision == "bf16"},
        "zero_optimization": {
            "stage": cluster.zero_stage,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
            "overlap_comm": False,
            **{
                f"offload_{what}": {"device": "cpu"}
                for what, levels in OFFLOADED.items()
                if cluster.offload in levels
            },
        },
        # torch.optim.AdamW, offloaded too: DeepSpeed's own would compile an extension.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
