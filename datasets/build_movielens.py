"""Build shards from one of GroupLens' MovieLens archives, given or downloaded."""

import argparse
import sys
from pathlib import Path

from skiprec.config.reading import parse_override
from skiprec.data.ingest.download import download
from skiprec.data.ingest.movielens import BASE_URL, EDITIONS, build_movielens
from skiprec.data.ingest.recipe import load_recipe, make_recipe


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edition", choices=sorted(EDITIONS), required=True)
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument(
        "--archive", type=Path, metavar="ZIP", help="the archive as GroupLens has it"
    )
    origin.add_argument(
        "--download", action="store_true", help="fetch it; goes on where it stopped"
    )
    parser.add_argument("--base-url", help=f"with --download; {BASE_URL} unless given")
    parser.add_argument("--cache", type=Path, help="with --download; data/downloads unless given")
    parser.add_argument(
        "--recipe",
        type=Path,
        help="windows of 20, split by user, unless given: recipes/slides_*.toml",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="such as window=100"
    )
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    args = parser.parse_args(argv)
    if args.archive and (args.base_url or args.cache):
        parser.error("--base-url and --cache have no effect with --archive")
    try:
        overrides = dict(parse_override(text) for text in args.set)
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
        if args.download:
            url = f"{(args.base_url or BASE_URL).rstrip('/')}/{args.edition}.zip"
            archive = download(url, args.cache or Path("data/downloads"), progress=print)
        manifest = build_movielens(args.edition, archive, recipe, args.output, progress=print)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(manifest.counts.describe())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
