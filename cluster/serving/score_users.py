"""Recommendations for every user of a file, on Ray Data: restartable, each user exactly once.

Ray Data hands out the parts; an actor writes each to a file of its own, which gets its name when it
is whole. A part that is computed twice, because its actor was killed, has the same name and
contents, and a repeated command computes what is missing. The manifest is written last.
"""

import fcntl
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import ray
import ray.data

from cluster.machine.session import ray_session
from cluster.serving.histories import part_name, prepare_histories
from skiprec.data.ingest.inputs import check_inputs
from skiprec.data.ingest.raw_files import RawFile, ZipMember
from skiprec.data.ingest.recipe import Recipe
from skiprec.durable import file_sha256, flush_to_disk, make_folder, write_text_durably
from skiprec.inference import Recommender
from skiprec.inference.saved_model import MANIFEST

# Programs that read a folder of Parquet files pass over names that begin so.
OPTIONS, RESULT, SCRATCH = "_options.json", "_manifest.json", "_scratch"
USERS_AT_ONCE = 4096
MAX_PARTS = 400  # two files of each are open at once


@dataclass(frozen=True)
class Asked:
    """What is asked for each user; see `Recommender.recommend`."""

    k: int = 20
    exclude_seen: bool = True
    keep: float | None = None
    explain: bool = False
    deny: tuple[str, ...] = ()


@dataclass(frozen=True)
class Crew:
    """The actors.

    Args:
        workers: number of actors. None: as many as fit the CPUs of the cluster.
        threads: of each actor; also the CPUs that it takes.
        parts: files of the output; each is computed and written as a whole.
    """

    workers: int | None = None
    threads: int = 1
    parts: int = 64


def score_users(
    model: Path,
    recipe: Recipe,
    inputs: Sequence[RawFile],
    output: Path,
    asked: Asked,
    crew: Crew,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Writes `output`/part-*.parquet and the manifest, which is returned.

    Raises:
        ValueError: the model, the inputs or the options are not what they should be, or `output`
            was begun with others.
    """
    recommender = Recommender.load(model)
    recommender.recommend([], k=asked.k, keep=asked.keep)  # refuses what cannot be had
    if crew.parts > MAX_PARTS:
        raise ValueError(f"parts is {crew.parts}; expected at most {MAX_PARTS}")
    check_inputs(recipe, [(file, "train") for file in inputs])
    unknown = [item for item in asked.deny if item not in set(recommender.ids)]
    if unknown:
        progress(f"{len(unknown)} denied items are unknown to the model; the first: {unknown[0]!r}")
    make_folder(output)
    with _only_driver(output):
        _begin(output, _options(model, recipe, inputs, asked, crew))
        scratch = output / SCRATCH
        if (output / RESULT).exists():
            return _completed(output, progress)
        counts = prepare_histories(recipe, inputs, scratch, crew.parts, progress)
        missing = [part for part in range(crew.parts) if not (output / output_name(part)).exists()]
        num_done = sum(counts) - sum(counts[part] for part in missing)
        for result in _score_parts(model, output, missing, asked, crew):
            num_done += int(result["users"])
            progress(f"scored {num_done:,} of {sum(counts):,} users")
        manifest = _finish(output, counts, recommender.spec.name)
        shutil.rmtree(scratch, ignore_errors=True)  # an actor of a killed command may still write
        return manifest


def output_name(part: int) -> str:
    """The file of a part's recommendations."""
    return f"part-{part:05d}.parquet"


class Scorer:
    """An actor: the model, loaded once, for one part after the other."""

    def __init__(self, model: str, output: str, asked: Asked, threads: int):
        self.recommender = Recommender.load(model, threads)
        self.output, self.asked = Path(output), asked

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The numbers of users in the parts of a batch, which are written."""
        parts = [int(part) for part in batch["part"]]
        return {"part": np.array(parts), "users": np.array([self.score(part) for part in parts])}

    def score(self, part: int) -> int:
        """Writes one part; the number of its users."""
        scratch = self.output / SCRATCH
        draft = scratch / f"{output_name(part)}.{uuid.uuid4().hex}.draft"
        num_users = 0
        with (
            pa.memory_map(str(scratch / part_name(part))) as mapped,
            pyarrow.parquet.ParquetWriter(draft, SCHEMA) as writer,
        ):
            reader = pa.ipc.open_file(mapped)
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                for start in range(0, batch.num_rows, USERS_AT_ONCE):
                    writer.write_table(self._rows(batch.slice(start, USERS_AT_ONCE)))
                num_users += batch.num_rows
        flush_to_disk(draft)
        draft.replace(self.output / output_name(part))
        return num_users

    def _rows(self, batch: pa.RecordBatch) -> pa.Table:
        asked = self.asked
        table = self.recommender.recommend_table(
            batch.column("items"),
            k=asked.k,
            exclude_seen=asked.exclude_seen,
            deny=asked.deny or None,
            keep=asked.keep,
            explain=asked.explain,
        )
        return table.add_column(0, "user", batch.column("user")).cast(SCHEMA)


SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("items", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("source", pa.string()),
        ("unknown", pa.list_(pa.string())),
        ("read", pa.int32()),
        ("kept_blocks", pa.list_(pa.int32())),
    ]
)


def _score_parts(
    model: Path, output: Path, parts: list[int], asked: Asked, crew: Crew
) -> Iterator[dict[str, Any]]:
    """What each part gave, as it is finished."""
    if not parts:
        return
    with ray_session():
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        workers = min(crew.workers or _fitting_workers(crew.threads), len(parts))
        dataset = ray.data.from_items(
            [{"part": part} for part in parts], override_num_blocks=len(parts)
        ).map_batches(
            Scorer,
            fn_constructor_args=(str(model.resolve()), str(output.resolve()), asked, crew.threads),
            batch_size=1,
            num_cpus=crew.threads,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        yield from dataset.iter_rows()


def _fitting_workers(threads: int) -> int:
    """How many actors of so many threads fit the machines of the cluster."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    if threads > max(cpus):
        raise ValueError(
            f"threads={threads}, and the largest machine of the cluster has {max(cpus)} CPUs"
        )
    return sum(one // threads for one in cpus)


def _options(
    model: Path, recipe: Recipe, inputs: Sequence[RawFile], asked: Asked, crew: Crew
) -> dict[str, Any]:
    """All that decides what the output holds."""
    return {
        "model": file_sha256(model / MANIFEST)[:12],
        "inputs": [_fingerprint(file) for file in inputs],
        "source": recipe.source.model_dump(mode="json"),
        "parts": crew.parts,
        **{**asdict(asked), "deny": list(asked.deny)},
    }


def _fingerprint(file: RawFile) -> list[Any]:
    path = file.archive if isinstance(file, ZipMember) else file
    state = path.stat()
    return [str(file), state.st_size, state.st_mtime_ns]


def _begin(output: Path, options: dict[str, Any]) -> None:
    """Notes the options of a new output, or compares them with those it was begun with."""
    path = output / OPTIONS
    if not path.exists():
        others = [entry.name for entry in output.iterdir() if not entry.name.startswith((".", "_"))]
        if others:
            raise ValueError(
                f"{output} is not empty (it has {others[0]}); expected a new folder, or one that "
                "this command has begun"
            )
        write_text_durably(path, json.dumps(options, indent=1))
        return
    begun = _read_json(path)
    changed = [key for key in options if begun.get(key) != options[key]]
    if changed and not (output / RESULT).exists() and not any(output.glob("part-*.parquet")):
        # Nothing has come of the first attempt, so this one corrects it.
        shutil.rmtree(output / SCRATCH, ignore_errors=True)
        write_text_durably(path, json.dumps(options, indent=1))
    elif changed:
        raise ValueError(
            f"{output} was begun with another {', '.join(changed)}; give the same options to go "
            "on, or another --output"
        )


def _completed(output: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """The manifest of an output that is complete."""
    manifest = _read_json(output / RESULT)
    gone = [name for name in manifest["files"] if not (output / name).exists()]
    if gone:
        raise ValueError(f"{output} was complete and has lost {gone[0]}; begin anew elsewhere")
    shutil.rmtree(output / SCRATCH, ignore_errors=True)
    progress(f"{output} is complete; nothing is left to do")
    return manifest


def _finish(output: Path, counts: list[int], model: str) -> dict[str, Any]:
    """Checks that every user is there, and writes the manifest."""
    flush_to_disk(output)
    sources: dict[str, int] = {}
    unknown = 0
    for part, expected in enumerate(counts):
        path = output / output_name(part)
        table = pyarrow.parquet.read_table(path, columns=["source", "unknown"])
        if table.num_rows != expected:
            raise ValueError(
                f"{path} has {table.num_rows} users; expected {expected}: remove the file and "
                "repeat the command"
            )
        unknown += pc.sum(pc.list_value_length(table["unknown"])).as_py() or 0
        for entry in table["source"].value_counts().to_pylist():
            sources[entry["values"]] = sources.get(entry["values"], 0) + entry["counts"]
    manifest = {
        "users": sum(counts),
        "by_source": sources,
        "unknown_items": unknown,
        "model": model,
        "options": _read_json(output / OPTIONS),
        "files": [output_name(part) for part in range(len(counts))],
    }
    write_text_durably(output / RESULT, json.dumps(manifest, indent=1))
    return manifest


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; remove its folder") from error
    return content


@contextmanager
def _only_driver(output: Path) -> Iterator[None]:
    """Holds a lock on the folder, so that two commands never fill it at once."""
    descriptor = os.open(output, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another command is writing to {output}; wait for its end") from None
        yield
    finally:
        os.close(descriptor)
