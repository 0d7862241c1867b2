"""The input files of a build: checking, reading and describing them."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from skiprec.data.ingest.chunks import Chunk, EmptyInputError, Part, Tally
from skiprec.data.ingest.columns import locate_columns
from skiprec.data.ingest.json_rows import begins_with_object
from skiprec.data.ingest.parsing import plain_type
from skiprec.data.ingest.raw_files import (
    RawFile,
    ZipMember,
    content_of,
    damage_named,
    refuse_binary,
)
from skiprec.data.ingest.read_sequences import first_line_with_items, read_sequences
from skiprec.data.ingest.read_table import read_table, refuse_unlike_times, schema_of
from skiprec.data.ingest.read_text import first_line_of_user, read_text
from skiprec.data.ingest.recipe import (
    ArrowSource,
    JsonSource,
    ParquetSource,
    Recipe,
    SequenceSource,
    SyntheticSource,
    TextSource,
)
from skiprec.data.ingest.synthetic import generate_chunks
from skiprec.data.ingest.times import Clock, clock_of
from skiprec.data.manifest import InputInfo
from skiprec.data.splits import ByTime, Given
from skiprec.durable import file_sha256

Files = list[tuple[RawFile, Part]]

_CONTENTS = {"parquet": "Parquet", "arrow": "Arrow IPC", "jsonl": "JSON lines", "text": "text"}


def check_inputs(recipe: Recipe, files: Files) -> None:
    """Raises ValueError if files do not fit the recipe, are missing, or are listed twice."""
    if isinstance(recipe.source, SyntheticSource):
        if files:
            listed = ", ".join(str(file) for file, _ in files)
            raise ValueError(
                f"recipe {recipe.name} is synthetic and reads no files, got {listed}; remove them"
            )
        return
    parts = {part for _, part in files}
    if isinstance(recipe.split, Given) and parts != {"train", "test"}:
        raise ValueError(
            "split 'given' needs train files and test files, "
            f"found only {', '.join(sorted(parts)) or 'none'}; give both"
        )
    if not isinstance(recipe.split, Given) and parts != {"train"}:
        raise ValueError(
            f"split {recipe.split.kind!r} needs input files and draws the test rows itself; found "
            f"{len(files)} files, {sum(part == 'test' for _, part in files)} of them for test"
        )
    for file, _ in files:
        path = file.archive if isinstance(file, ZipMember) else file
        if not path.is_file():
            raise ValueError(f"{path}: no such file; expected an input of recipe {recipe.name}")
        if path.stat().st_size == 0 and len(files) == 1:
            raise ValueError(f"{path} is empty (0 bytes); expected interactions")
    if len({file.resolve() if isinstance(file, Path) else file for file, _ in files}) < len(files):
        raise ValueError("an input file is given twice; expected each once")
    filled = [file for file, _ in files if not _is_empty(file)]
    for file in filled:
        _refuse_other_content(recipe, file)
    if isinstance(recipe.source, ParquetSource | ArrowSource):
        refuse_unlike_times([file for file in filled if isinstance(file, Path)], recipe.source)
    if (recipe.times or isinstance(recipe.split, ByTime)) and not clock_of_inputs(recipe, files):
        reason = "times" if recipe.times else "split by_time"
        expected = (
            "source.time_column with dates or, for numbers since 1970, source.time_unit (s, ms, us "
            "or ns)"
        )
        if isinstance(recipe.source, SequenceSource):
            expected = "a table, since a file with one history on each line has no times"
        raise ValueError(f"recipe {recipe.name} needs dates, for {reason}; expected {expected}")


def _is_empty(file: RawFile) -> bool:
    return isinstance(file, Path) and file.stat().st_size == 0


def _refuse_other_content(recipe: Recipe, file: RawFile) -> None:
    """Raises ValueError if a file is not of the kind that the recipe reads."""
    kind = recipe.source.kind
    content = content_of(file)
    # JSON lines may begin with blank ones, and text may begin like JSON.
    may_be = {"text": ("jsonl", "sequences"), "jsonl": ("text",)}
    is_object = content == "jsonl" and kind == "text" and begins_with_object(file)
    if content == kind or (kind in may_be.get(content, ()) and not is_object):
        if isinstance(recipe.source, TextSource | SequenceSource | JsonSource):
            refuse_binary(file, recipe.source.encoding)
        return
    raise ValueError(
        f"{file} holds {_CONTENTS[content]}, and recipe {recipe.name} reads {kind!r}; expected "
        f"source.kind = {content!r} for it, or another file"
    )


def clock_of_inputs(recipe: Recipe, files: Files) -> Clock | None:
    """How the times of the inputs become dates; None without times or with an unknown unit."""
    source = recipe.source
    if isinstance(source, SequenceSource | SyntheticSource) or source.time_column is None:
        return None
    kind = pa.string()
    if isinstance(source, ParquetSource | ArrowSource):
        file = next((file for file, _ in files if not _is_empty(file)), files[0][0])
        schema = schema_of(file, source)
        at = locate_columns((source.time_column,), schema.names, str(file))
        kind = plain_type(schema.field(at[source.time_column]).type)
    return clock_of(kind, source.time_format or "number", source.time_unit)


def read_inputs(
    recipe: Recipe, files: Files, tally: Tally, block_bytes: int
) -> Iterator[tuple[Chunk, Part]]:
    """All interactions, file after file, with the part that each chunk belongs to.

    Counts into `tally`. Reads about `block_bytes` at a time.

    Raises:
        ValueError: a row or a file cannot be read; the message names the place.
    """
    if isinstance(recipe.source, SyntheticSource):
        for chunk in generate_chunks(recipe.source):
            tally.rows_read += len(chunk.users_N)
            yield chunk, "train"
    for number, (file, part) in enumerate(files, start=1):
        try:
            with damage_named(file):
                if _is_empty(file):
                    raise EmptyInputError(f"{file} is empty (0 bytes); expected interactions")
                for chunk in _read_file(recipe, file, number, tally, block_bytes):
                    yield chunk, part
        except EmptyInputError:
            if len(files) == 1:
                raise
            tally.empty_files += 1


def _read_file(
    recipe: Recipe, file: RawFile, number: int, tally: Tally, block_bytes: int
) -> Iterator[Chunk]:
    match recipe.source:
        case TextSource():
            return read_text(file, number, recipe.source, tally, block_bytes)
        case SequenceSource():
            return read_sequences(file, number, recipe.source, tally, block_bytes)
        case ParquetSource() | ArrowSource() | JsonSource():
            # 32 bytes for each row: roughly its ids and its time.
            return read_table(file, number, recipe.source, tally, max(1, block_bytes // 32))
        case SyntheticSource():
            raise AssertionError("synthetic data has no files")


def first_user(recipe: Recipe, files: Files) -> str:
    """The place, id and length of the first user of the first file, for an error message.

    For example "FILE line 2 (user 'a' with 1 item)". Reads the file again.
    """
    file, _ = files[0]
    tally = Tally(0, 0, {})
    chunks = [chunk.users_N for chunk in _read_file(recipe, file, 1, tally, 8 << 20)]
    user = next(users_N[0].as_py() for users_N in chunks if len(users_N))
    count = sum(pc.sum(pc.equal(users_N, user)).as_py() or 0 for users_N in chunks)
    match recipe.source:
        case TextSource() if line := first_line_of_user(file, recipe.source, user):
            where = f"line {line}"
        case SequenceSource():
            where = f"line {first_line_with_items(file, recipe.source)}"
        case _:
            where = "the first row that passes the conditions"
    return f"{file} {where} (user {user!r} with {count} item{'s' * (count != 1)})"


def describe_input(file: RawFile, part: Part) -> InputInfo:
    """Name, size and sha256 of an input; for a file in a zip, size and sha256 of the archive."""
    path = file.archive if isinstance(file, ZipMember) else file
    name = f"{path.name}/{file.member}" if isinstance(file, ZipMember) else path.name
    return InputInfo(name=name, part=part, bytes=path.stat().st_size, sha256=file_sha256(path))
