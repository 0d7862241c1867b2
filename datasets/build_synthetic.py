"""Generates a dataset whose users are easy or hard to predict, and records which is which."""

import argparse
import sys
from pathlib import Path

from skiprec.config.reading import parse_override
from skiprec.data.ingest.pipeline import build_dataset
from skiprec.data.ingest.recipe import Recipe, load_recipe
from skiprec.terminal import moving_line

RECIPE = Path(__file__).parent / "recipes" / "synthetic.toml"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--recipe",
        type=Path,
        default=RECIPE,
        metavar="FILE",
        help="TOML file with the settings of the dataset "
        "(default: datasets/recipes/synthetic.toml)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set one key of the recipe, such as source.hard_frac=0.2; may be repeated "
        "(default: the values of the recipe)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder for the dataset; it must not exist yet (required)",
    )
    args = parser.parse_args(argv)
    try:
        recipe = load_recipe(args.recipe, dict(parse_override(text, Recipe) for text in args.set))
        with moving_line() as line:
            manifest = build_dataset(recipe, [], args.output, progress=line.report)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(manifest.describe())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
