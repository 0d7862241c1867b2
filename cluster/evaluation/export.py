"""Exports the best network of a run for `Recommender`."""

from pathlib import Path

import pyarrow as pa

from cluster.runs.data import refuse_other_items
from cluster.runs.folder import provenance
from skiprec.checkpoints.network import load_network
from skiprec.config.files import config_hash
from skiprec.config.run import RunConfig
from skiprec.data.batching import evenly_spaced_rows
from skiprec.data.halves import rows_to_validate
from skiprec.data.manifest import read_manifest
from skiprec.data.shards import ShardSet
from skiprec.inference.export import export_model, validation_rows
from skiprec.inference.saved_model import ModelSpec, read_saved_model
from skiprec.terminal import say


def is_exported(output: Path, run_folder: Path, config: RunConfig) -> bool:
    """Whether `output` holds a model that was exported from this run.

    Raises:
        ValueError: it holds another one, a damaged one or something else.
    """
    if not output.exists():
        return False
    made_by = read_saved_model(output).spec.made_by
    own = {"run": config.name, "config_hash": config_hash(config)}
    if differing := [key for key, value in own.items() if made_by.get(key) != value]:
        raise ValueError(
            f"{output} holds a model of another {' and '.join(differing)} than {run_folder}; "
            "choose another --output"
        )
    return True


def export_run(
    config: RunConfig, run_folder: Path, output: Path, with_onnx: bool = False
) -> ModelSpec:
    """Writes the folder `output` with the run's best network; returns its description.

    Args:
        config: of the run; `data.path` may be set anew.
        with_onnx: whether ONNX graphs are written, too.

    Raises:
        ValueError: no checkpoint, data with other items, a network that no executor knows, or
            `output` exists.
    """
    network = load_network(run_folder)[1]
    data = Path(config.data.path)
    refuse_other_items(run_folder, network.num_items, data)
    manifest = read_manifest(data)
    shards = ShardSet.open(data, "validation")
    held_out = rows_to_validate(data, config.training)  # those that the policy was not fitted on
    row_R = evenly_spaced_rows(held_out.num_rows, config.training.validation_rows)
    if not len(row_R):
        raise ValueError(f"{data} has no validation rows; build the data with more users")
    with pa.memory_map(str(data / manifest.items.name)) as mapped:
        items = pa.ipc.open_file(mapped).read_all()
    made_by = {
        "run": config.name,
        "policy": config.policy.kind,
        "data": manifest.name,
        "data_content": manifest.content_hash,
        "model": config.model.model_dump(mode="json", exclude_none=True),
        **provenance(config),
    }
    return export_model(
        network,
        config.name,
        shards.window - 1,
        items,
        validation_rows(held_out, row_R),
        made_by,
        output,
        lambda text: say(f"[{config.name}] {text}"),
        with_onnx,
    )
