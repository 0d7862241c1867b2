"""Builds a dataset from a MovieLens archive of GroupLens, which is given or downloaded."""

import argparse
import sys
from pathlib import Path

from skiprec.config.reading import parse_override
from skiprec.data.ingest.download import download
from skiprec.data.ingest.movielens import BASE_URL, EDITIONS, build_movielens
from skiprec.data.ingest.recipe import Recipe, load_recipe, make_recipe
from skiprec.terminal import moving_line

CACHE = Path("data/downloads")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--edition",
        choices=sorted(EDITIONS),
        required=True,
        help="edition of MovieLens that the archive holds (required)",
    )
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument(
        "--archive",
        type=Path,
        metavar="ZIP",
        help="the archive as GroupLens publishes it (required without --download)",
    )
    origin.add_argument(
        "--download",
        action="store_true",
        help="download the archive; an interrupted download continues (required without --archive)",
    )
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help=f"folder on the web that has the archive, with --download (default: {BASE_URL})",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help=f"folder that keeps the archive, with --download (default: {CACHE})",
    )
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="TOML file with the settings of the dataset, such as "
        "datasets/recipes/slides_ml20.toml (default: windows of 20 items, split by user)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set one key of the recipe, such as window=100; may be repeated (default: the values "
        "of the recipe)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder for the dataset; it must not exist yet (required)",
    )
    args = parser.parse_args(argv)
    if args.archive and (args.base_url or args.cache):
        parser.error("--base-url and --cache have no effect with --archive")
    try:
        overrides = dict(parse_override(text, Recipe) for text in args.set)
        if args.recipe:
            recipe = load_recipe(args.recipe, overrides)
        else:
            content = {
                "name": args.edition.replace("-", "_"),
                "window": 20,
                "source": EDITIONS[args.edition].source.model_dump(mode="json"),
                "split": {"kind": "by_user"},
            }
            recipe = make_recipe(content, overrides, origin=args.edition)
        archive = args.archive
        with moving_line() as line:
            if args.download:
                url = f"{(args.base_url or BASE_URL).rstrip('/')}/{args.edition}.zip"
                archive = download(url, args.cache or CACHE, progress=line.report)
            manifest = build_movielens(
                args.edition, archive, recipe, args.output, progress=line.report
            )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(manifest.describe())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
