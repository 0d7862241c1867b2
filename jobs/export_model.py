"""Exports the best network of a run into a folder that serves without torch.

The folder holds the weights, the items with their original ids, the policy's accuracy at several
shares of kept blocks, some histories with their answers, and a manifest of checksums.
"""

import sys
from pathlib import Path

from cluster.command_line import add_overrides, add_run, job_parser, run_job
from cluster.evaluation.evaluate import evaluation_config
from cluster.evaluation.export import export_run, is_exported
from skiprec.terminal import print_markdown, print_prose


def main(argv: list[str]) -> int:
    parser = job_parser(__doc__)
    add_run(parser)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder for the exported model; it must not exist yet (required)",
    )
    parser.add_argument(
        "--if-missing",
        action="store_true",
        help="do nothing if the folder holds an exported model of this run (default: an existing "
        "folder is an error)",
    )
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="also write backbone.onnx and policy.onnx, checked in ONNX Runtime (default: no); "
        "needs the extra onnx",
    )
    add_overrides(parser, "the settings data.* of the run", "data.path=runs/data/smoke")
    arguments = parser.parse_args(argv)

    def export() -> None:
        config = evaluation_config(arguments.run, arguments.set)
        if arguments.if_missing and is_exported(arguments.output, arguments.run, config):
            print_prose(f"{arguments.output} holds the model already")
            return
        spec = export_run(config, arguments.run, arguments.output, arguments.onnx)
        if spec.curve:
            lines = ["| keep | MRR@20 | HR@20 |", "| ---: | ---: | ---: |"]
            for point in spec.curve:
                numbers = (point.mrr_at_20, point.hr_at_20)
                lines.append(
                    f"| {point.keep:.3f} | " + " | ".join(f"{n:.4f}" for n in numbers) + " |"
                )
            print_markdown("\n".join(lines))
        print_prose(
            f"{arguments.output} holds the model. Use it with: "
            "from skiprec.inference import Recommender; "
            f'Recommender.load("{arguments.output}").recommend([["id", "id"]], k=20)'
        )

    return run_job(export)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
