"""Building a dataset folder from raw interactions; begin with `pipeline.build_dataset`."""

from skiprec.data.ingest.download import download
from skiprec.data.ingest.grocery import build_grocery
from skiprec.data.ingest.movielens import build_movielens
from skiprec.data.ingest.pipeline import build_dataset
from skiprec.data.ingest.publish import is_built
from skiprec.data.ingest.recipe import Recipe, load_recipe, make_recipe

__all__ = [
    "Recipe",
    "build_dataset",
    "build_grocery",
    "build_movielens",
    "download",
    "is_built",
    "load_recipe",
    "make_recipe",
]
