"""Build shards from files of interactions (CSV, TSV, Parquet) or of one history a line.

All can be said in a recipe (--recipe), on the command line, or in both: the command line wins.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from skiprec.config.reading import parse_override
from skiprec.data.ingest.pipeline import build_dataset
from skiprec.data.ingest.recipe import load_recipe, make_recipe


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    files = parser.add_argument_group("files (.gz is read as it is; .parquet is Parquet)")
    files.add_argument("--input", nargs="+", type=Path, default=[], help="one interaction a line")
    files.add_argument("--sequences", nargs="+", type=Path, default=[], help="one history a line")
    files.add_argument(
        "--test-input", nargs="+", type=Path, default=[], help="test files of split 'given'"
    )
    files.add_argument("--output", type=Path, required=True, help="a new folder")
    files.add_argument("--recipe", type=Path, help="TOML file; datasets/recipes/ has examples")

    lines = parser.add_argument_group("what a line holds")
    lines.add_argument("--user-column", help="its name, or its number from 1 with --no-header")
    lines.add_argument("--item-column")
    lines.add_argument("--time-column", help="rows are ordered by it; ties by place in the file")
    lines.add_argument(
        "--time-format", help="number (default), integer, iso8601 or like %%d/%%m/%%Y"
    )
    lines.add_argument("--order-column", help="whole numbers; after time, before place in the file")
    lines.add_argument("--separator", help=r"one character, or a repeated one; \t for a tab")
    lines.add_argument("--no-header", action="store_true", help="the first line is a row")
    lines.add_argument("--no-quotes", action="store_true", help="double quotes mean nothing")
    lines.add_argument("--first-field-is-user", action="store_true", help="with --sequences")
    lines.add_argument(
        "--keep", action="append", metavar="CONDITION", help="'Quantity > 0', 'Id is not empty'"
    )
    lines.add_argument("--on-bad-row", choices=("error", "skip"))

    rows = parser.add_argument_group("what becomes of it")
    rows.add_argument("--name", help="of the dataset; the name of the output folder unless given")
    rows.add_argument("--window", type=int, help="items in a row, the last one the target")
    rows.add_argument(
        "--split", choices=("by_user", "leave_one_out", "by_window"), help="by_user unless given"
    )
    rows.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="such as filters.max_items=500",
    )
    return parser.parse_args(argv)


def overrides_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line gives, by dotted key of the recipe."""
    given = {
        "name": args.name,
        "window": args.window,
        "source.user_column": args.user_column,
        "source.item_column": args.item_column,
        "source.time_column": args.time_column,
        "source.time_format": args.time_format,
        "source.order_column": args.order_column,
        "source.separator": "\t" if args.separator == r"\t" else args.separator,
        "source.header": False if args.no_header else None,
        "source.quoted": False if args.no_quotes else None,
        "source.first_field_is_user": True if args.first_field_is_user else None,
        "source.keep": args.keep,
        "source.on_bad_row": args.on_bad_row,
        "split": {"kind": args.split} if args.split else None,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    return overrides | dict(parse_override(text) for text in args.set)


def defaults_of(args: argparse.Namespace) -> dict[str, Any]:
    """What a build without a recipe starts from; the kind of source follows from the files."""
    if args.sequences:
        source: dict[str, Any] = {"kind": "sequences", "first_field_is_user": False}
    elif any(path.suffix == ".parquet" for path in args.input):
        source = {"kind": "parquet"}
    else:
        source = {"kind": "text"}
    split = "given" if args.test_input else "by_user"
    return {"name": args.output.name, "source": source, "split": {"kind": split}}


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)
    try:
        if bool(args.input) == bool(args.sequences):
            raise ValueError("expected either --input or --sequences, with one file or more")
        if args.recipe:
            recipe = load_recipe(args.recipe, overrides_of(args))
        else:
            recipe = make_recipe(defaults_of(args), overrides_of(args), origin="command line")
        if (recipe.source.kind == "sequences") != bool(args.sequences):
            raise ValueError(
                f"source.kind of recipe {recipe.name} is {recipe.source.kind!r}; give the files "
                f"with {'--sequences' if args.input else '--input'}"
            )
        manifest = build_dataset(
            recipe,
            args.input or args.sequences,
            args.output,
            test_inputs=args.test_input,
            progress=print,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(manifest.counts.describe())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
