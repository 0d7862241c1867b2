"""Recommendations for all users of a file, as Parquet, on one machine or a Ray cluster.

    python jobs/recommend_users.py --model runs/shop/export --input users.parquet \\
      --user-column user --item-column items --row-holds history --output recs

The input is a table of interactions, or one with a history a row; its kind is told by its content.
A command that was interrupted goes on where it stopped when it is repeated.
"""

import sys
from pathlib import Path
from typing import Any

from cluster.command_line import job_parser, run_job
from cluster.serving.score_users import Asked, Crew, score_users
from skiprec.config.reading import parse_override
from skiprec.data.ingest.raw_files import RawFile, content_of, expand_inputs
from skiprec.data.ingest.recipe import Recipe, make_recipe
from skiprec.terminal import moving_line, print_prose


def main(argv: list[str]) -> int:
    parser = job_parser(__doc__)
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of the exported model (required)",
    )
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="files, folders of parts or patterns (required)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder for the Parquet files; new, or begun by the same command (required)",
    )
    parser.add_argument(
        "--user-column",
        metavar="NAME",
        help="column of the user (required, unless a row holds a history)",
    )
    parser.add_argument(
        "--item-column",
        required=True,
        metavar="NAME",
        help="column of the item, or of the whole history (required)",
    )
    parser.add_argument(
        "--row-holds",
        choices=("interaction", "history"),
        default="interaction",
        help="a history: the item column has a list, or items with blanks between them, the oldest "
        "first (default: interaction)",
    )
    parser.add_argument(
        "--time-column",
        metavar="NAME",
        help="column of the time, by which a history is ordered (default: the order in the file)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set another key of source in docs/data.md, such as source.on_bad_row=skip; may be "
        "repeated (default: none)",
    )
    parser.add_argument("--k", type=int, default=20, help="items for each user (default: 20)")
    parser.add_argument(
        "--include-seen",
        action="store_true",
        help="let lists have items of the history (default: they are left out)",
    )
    parser.add_argument(
        "--keep",
        type=float,
        metavar="SHARE",
        help="share of blocks that may run on average, 0 to 1 (default: as the model was trained)",
    )
    parser.add_argument(
        "--deny-file",
        type=Path,
        metavar="FILE",
        help="text file of items that are never recommended, one a line (default: none)",
    )
    parser.add_argument(
        "--explain", action="store_true", help="write the blocks that ran (default: no)"
    )
    parser.add_argument(
        "--workers", type=int, help="number of actors (default: as many as there are CPUs)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of an actor (default: 1)")
    parser.add_argument(
        "--parts", type=int, default=64, help="number of files in the output (default: 64)"
    )
    arguments = parser.parse_args(argv)

    def score() -> None:
        inputs = expand_inputs(arguments.input)
        deny = () if arguments.deny_file is None else read_lines(arguments.deny_file)
        for name in ("workers", "threads", "parts"):
            value = getattr(arguments, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}; expected 1 or more")
        with moving_line() as line:
            filled = [file for file in inputs if not is_empty(file)]
            manifest = score_users(
                arguments.model,
                recipe_of(arguments, content_of((filled or inputs)[0])),
                inputs,
                arguments.output,
                Asked(
                    arguments.k,
                    not arguments.include_seen,
                    arguments.keep,
                    arguments.explain,
                    deny,
                ),
                Crew(arguments.workers, arguments.threads, arguments.parts),
                line.report,
            )
        by_source = ", ".join(
            f"{count:,} by {name}" for name, count in manifest["by_source"].items()
        )
        print_prose(
            f"{arguments.output} has the recommendations of {manifest['users']:,} users "
            f"({by_source}); {manifest['unknown_items']:,} items of histories are unknown to the "
            "model"
        )

    return run_job(score)


def recipe_of(arguments: Any, kind: str) -> Recipe:
    """How the input is read. Only `source` of it counts."""
    source = {
        "kind": kind,
        "user_column": arguments.user_column,
        "item_column": arguments.item_column,
        "row_holds": arguments.row_holds,
        "time_column": arguments.time_column,
    }
    content: dict[str, Any] = {
        "name": "users",
        "window": 2,
        "min_items": 2,
        "split": {"kind": "by_user"},
        "source": {key: value for key, value in source.items() if value is not None},
    }
    overrides = dict(parse_override(text, Recipe) for text in arguments.set)
    for key in overrides:
        if not key.startswith("source."):
            raise ValueError(f"--set {key} has no effect here; expected a key of source")
    return make_recipe(content, overrides, origin="command line")


def is_empty(file: RawFile) -> bool:
    return isinstance(file, Path) and file.exists() and file.stat().st_size == 0


def read_lines(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
