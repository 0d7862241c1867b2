"""The command of a study at the size of a test."""

from pathlib import Path

# Of a study with several seeds one is run; depth stays, since that is what rows differ in.
SMALL = (
    "model.width=8",
    "training.epochs=0.49",
    "training.validate_every_steps=4",
    "training.engine=torch",
    "evaluation.max_rows=40",
    "evaluation.timing_batches=[]",
)


def options_of(study: str, root: Path, runs: Path, num_workers: int) -> list[str]:
    """The arguments of the command of a study, whose results go to a folder of the study's name."""
    places = (f"data.path={root / 'data'}", f"root={runs}")
    crews = (f"cluster.num_workers={num_workers}", f"evaluation.num_workers={num_workers}")
    settings = [part for key in (*places, *crews, *SMALL) for part in ("--set", key)]
    return ["--study", study, "--results", str(root / Path(study).name), "--seeds", "0", *settings]
