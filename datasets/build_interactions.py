"""Builds a dataset from logs: CSV, TSV, JSON lines, Parquet, Arrow, or one history a line.

What a file holds is told by its content. Text may be packed as gz, bz2, xz, zst or zip.

The settings come from a recipe (--recipe), from the options, or from both: options win.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from skiprec.config.reading import parse_override
from skiprec.data.ingest.item_names import NameTable
from skiprec.data.ingest.pipeline import build_dataset
from skiprec.data.ingest.publish import is_built
from skiprec.data.ingest.raw_files import content_of_first, expand_inputs
from skiprec.data.ingest.recipe import Recipe, load_recipe, make_recipe
from skiprec.terminal import moving_line


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="A default in this list holds if the recipe has no value either.",
    )
    files = parser.add_argument_group("files (an input is a file, a folder of parts or a pattern)")
    files.add_argument(
        "--input",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="tables: an interaction or a history a row (required without --sequences)",
    )
    files.add_argument(
        "--sequences",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="text files with one history a line, oldest item first (required without --input)",
    )
    files.add_argument(
        "--test-input",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="files of the test split; sets the split to 'given' (default: none)",
    )
    files.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder for the dataset; it must not exist yet (required)",
    )
    files.add_argument(
        "--if-missing",
        action="store_true",
        help="do nothing if the folder holds a complete dataset of the same settings, whatever its "
        "input was (default: an existing folder is an error)",
    )
    files.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="TOML file with the settings of the dataset; examples are in datasets/recipes "
        "(default: none, the options give all settings)",
    )

    files.add_argument(
        "--item-names",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="table with a name for people for each item, such as the input itself (default: none)",
    )
    files.add_argument(
        "--item-names-columns",
        nargs="+",
        default=[],
        metavar="NAME",
        help="columns of this table: the item's id, then one or more that hold its name (required "
        "with --item-names)",
    )
    files.add_argument(
        "--item-names-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of source for reading this table, such as source.separator='::'; may be "
        "repeated (default: those of its kind)",
    )

    rows = parser.add_argument_group("how the files are read")
    rows.add_argument(
        "--user-column",
        metavar="NAME",
        help="column with the user; its number from 1 with --no-header (required with --input, "
        "here or in the recipe, but not with --row-holds history: then each row can be a user)",
    )
    rows.add_argument(
        "--item-column",
        metavar="NAME",
        help="column with the item (required with --input, here or in the recipe)",
    )
    rows.add_argument(
        "--row-holds",
        choices=("interaction", "history"),
        help="a history: the item column has a list, or items with blanks between them, the oldest "
        "first (default: interaction)",
    )
    rows.add_argument(
        "--time-column",
        metavar="NAME",
        help="column with the time, by which a history is ordered; equal times keep their order "
        "in the file (default: none, the order in the file)",
    )
    rows.add_argument(
        "--time-format",
        metavar="FORMAT",
        help="format of the time: number, integer, iso8601 or a pattern such as %%d/%%m/%%Y "
        "(default: number)",
    )
    rows.add_argument(
        "--time-unit",
        choices=("s", "ms", "us", "ns"),
        help="unit of times that are numbers since 1970; needed where dates are (default: unknown)",
    )
    rows.add_argument(
        "--order-column",
        metavar="NAME",
        help="column of whole numbers that orders equal times (default: none)",
    )
    rows.add_argument(
        "--separator",
        metavar="TEXT",
        help=r"one character between fields, which may be repeated as in ::; \t is a tab "
        "(default: a comma)",
    )
    rows.add_argument(
        "--encoding",
        metavar="NAME",
        help="encoding of text, such as latin-1 (default: utf-8, or what a byte order mark says)",
    )
    rows.add_argument(
        "--no-header",
        action="store_true",
        help="read the first line as a row (default: the first line names the columns)",
    )
    rows.add_argument(
        "--no-quotes",
        action="store_true",
        help="read double quotes as ordinary characters (default: they may enclose a field)",
    )
    rows.add_argument(
        "--first-field-is-user",
        action="store_true",
        help="take the first field of a line as the user, with --sequences (default: each line "
        "is a user)",
    )
    rows.add_argument(
        "--keep",
        action="append",
        metavar="CONDITION",
        help="keep the rows that meet a condition, such as 'Quantity > 0' or 'Id is not empty'; "
        "may be repeated (default: keep all rows)",
    )
    rows.add_argument(
        "--on-bad-row",
        choices=("error", "skip"),
        help="stop at a row that cannot be read, or leave it out (default: error)",
    )

    dataset = parser.add_argument_group("what the dataset holds")
    dataset.add_argument(
        "--name", help="name of the dataset (default: the name of the output folder)"
    )
    dataset.add_argument(
        "--window",
        type=int,
        metavar="ITEMS",
        help="number of items in a row, the last of which is the target (required, here or in the "
        "recipe)",
    )
    dataset.add_argument(
        "--split",
        choices=("by_time", "by_user", "leave_one_out", "by_window"),
        help="how rows are split into training, validation and test; by_time is the one for new "
        "data, and needs times (default: by_user, or 'given' with --test-input)",
    )
    dataset.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set one key of the recipe, such as filters.max_items=500; may be repeated (default: "
        "the values of the recipe)",
    )
    return parser.parse_args(argv)


def overrides_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the options give, by dotted key of the recipe."""
    given = {
        "name": args.name,
        "window": args.window,
        "source.user_column": args.user_column,
        "source.item_column": args.item_column,
        "source.time_column": args.time_column,
        "source.row_holds": args.row_holds,
        "source.time_format": args.time_format,
        "source.time_unit": args.time_unit,
        "source.encoding": args.encoding,
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
    return overrides | dict(parse_override(text, Recipe) for text in args.set)


def defaults_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a build without a recipe; the first file with content tells the kind."""
    if args.sequences:
        source: dict[str, Any] = {"kind": "sequences", "first_field_is_user": False}
    else:
        source = {"kind": content_of_first(args.input)}
    split = "given" if args.test_input else "by_user"
    return {"name": args.output.resolve().name, "source": source, "split": {"kind": split}}


def names_of(args: argparse.Namespace) -> NameTable | None:
    """Where the names of items are, by the options."""
    if not args.item_names:
        if args.item_names_columns or args.item_names_set:
            raise ValueError("--item-names-columns and --item-names-set need --item-names")
        return None
    if len(args.item_names_columns) < 2:
        raise ValueError(
            "--item-names-columns needs the column of the id and one or more of the name, got "
            f"{' '.join(args.item_names_columns) or 'none'}"
        )
    given = dict(parse_override(text, Recipe) for text in args.item_names_set)
    for key in given:
        if not key.startswith("source."):
            raise ValueError(f"--item-names-set {key} has no effect; expected a key of source")
    id_column, *name_columns = args.item_names_columns
    how = tuple((key.removeprefix("source."), value) for key, value in given.items())
    return NameTable(expand_inputs(args.item_names), id_column, tuple(name_columns), how)


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)
    try:
        if bool(args.input) == bool(args.sequences):
            raise ValueError("expected either --input or --sequences, with one file or more")
        args.input, args.sequences = expand_inputs(args.input), expand_inputs(args.sequences)
        args.test_input = expand_inputs(args.test_input)
        if args.recipe:
            recipe = load_recipe(args.recipe, overrides_of(args))
        else:
            recipe = make_recipe(defaults_of(args), overrides_of(args), origin="command line")
        if (recipe.source.kind == "sequences") != bool(args.sequences):
            raise ValueError(
                f"source.kind of recipe {recipe.name} is {recipe.source.kind!r}; give the files "
                f"with {'--sequences' if args.input else '--input'}"
            )
        if args.if_missing and is_built(args.output, recipe):
            print(f"{args.output} is complete; nothing is left to do")
            return 0
        with moving_line() as line:
            manifest = build_dataset(
                recipe,
                args.input or args.sequences,
                args.output,
                test_inputs=args.test_input,
                item_names=names_of(args),
                progress=line.report,
            )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(manifest.describe())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
