"""Derives DeepSpeed's configuration dictionary from the run's configuration."""

from typing import Any

from skiprec.config.cluster import ClusterConfig
from skiprec.config.training import TrainingConfig

# DeepSpeed's default is 5e8 elements, 2 GB in float32; networks of this size never fill that.
BUCKET_ELEMENTS = 5_000_000
# Values of `cluster.offload` that offload DeepSpeed's "optimizer" and "param".
OFFLOADED = {"optimizer": ("optimizer", "parameters"), "param": ("parameters",)}


def deepspeed_config(
    training: TrainingConfig, cluster: ClusterConfig, passes: int, world_size: int
) -> dict[str, Any]:
    """DeepSpeed's configuration for `passes` micro-batches a step on each of `world_size` ranks.

    The batch sizes in it are formal. Our loss is already divided by counts of the global batch, and
    `DeepSpeedEngine` undoes DeepSpeed's averaging over passes and ranks.
    """
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": passes,
        "train_batch_size": passes * world_size,
        # DeepSpeed's default is 1.0 since 0.19; without this line it would clip.
        "gradient_clipping": training.grad_clip_norm or 0.0,
        "bf16": {"enabled": training.precision == "bf16"},
        "zero_optimization": {
            "stage": cluster.zero_stage,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
            "overlap_comm": False,
            **{
                f"offload_{part}": {"device": "cpu"}
                for part, levels in OFFLOADED.items()
                if cluster.offload in levels
            },
        },
        # We use torch.optim.AdamW, also offloaded; DeepSpeed's AdamW would compile an extension.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
