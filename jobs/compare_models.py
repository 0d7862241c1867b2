"""Compares two exported models on the same new rows, for a person or a scheduler (docs/daily.md).

    python jobs/compare_models.py --models runs/mon/export runs/tue/export --data runs/data/tue

The exit code is 0 if the second model may take the place of the first, 3 if it is surely worse, and
another one after an error.
"""

import argparse
import json
import sys
from pathlib import Path

from skiprec.durable import make_folder, write_text_durably
from skiprec.evaluation.compare import Comparison, compare_models
from skiprec.terminal import moving_line, print_markdown, print_prose

WORSE = 3  # Python itself ends with 1 after an error that nobody expected
FEW_USERS = 100


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models",
        type=Path,
        nargs=2,
        required=True,
        metavar=("SERVES", "NEW"),
        help="folders of the model that serves and of the one that may take its place (required)",
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of a dataset (required)"
    )
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        default="test",
        help="rows that neither model was trained on (default: test)",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.0,
        metavar="MRR@20",
        help="the new model is worse if its 95 %% interval lies below minus this (default: 0.0)",
    )
    parser.add_argument(
        "--exclude-seen",
        action="store_true",
        help="leave items of the history out of lists (default: they may be recommended)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="JSON file for the numbers (default: none)"
    )
    arguments = parser.parse_args(argv)
    try:
        if not arguments.margin >= 0:
            raise ValueError(f"--margin is {arguments.margin}; expected 0 or more")
        if arguments.output is not None:
            make_folder(arguments.output.parent)
        with moving_line() as line:
            found = compare_models(
                tuple(arguments.models),
                arguments.data,
                arguments.split,
                line.report,
                arguments.exclude_seen,
            )
        is_worse = found.is_worse(arguments.margin)
        if arguments.output is not None:
            asked = {"split": arguments.split, "margin": arguments.margin, "is_worse": is_worse}
            write_text_durably(arguments.output, json.dumps(found.to_json() | asked, indent=1))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_markdown(table_of(found))
    print_prose(sentence_of(found, is_worse))
    return WORSE if is_worse else 0


def table_of(found: Comparison) -> str:
    lines = [
        "| model | MRR@20 | HR@20 | unknown targets | unknown items | blocks |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {one.name} | {one.mrr_at_20:.4f} | {one.hr_at_20:.4f} | {one.unknown_targets:.2%} | "
        f"{one.unknown_items:.2%} | {one.mean_blocks:.1f} |"
        for one in (found.first, found.second)
    ]
    return "\n".join(lines)


def sentence_of(found: Comparison, is_worse: bool) -> str:
    low, high = found.interval
    verdict = "is surely worse and must not" if is_worse else "may"
    both = ""
    if found.known_to_both is not None and found.rows_known_to_both < found.rows:
        both = (
            f" Over the {found.rows_known_to_both:,} rows whose target both know it is "
            f"{found.known_to_both:+.4f}."
        )
    few = ""
    if found.users < FEW_USERS and not is_worse:
        few = " So few users show large differences alone: give it more rows."
    return (
        f"MRR@20 of {found.second.name} less {found.first.name}: {found.difference:+.4f}, 95 % "
        f"interval {low:+.4f} to {high:+.4f}, over {found.rows:,} rows of {found.users:,} users. "
        f"An unknown target is a miss.{both} {found.second.name} {verdict} take the place of "
        f"{found.first.name}.{few}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
