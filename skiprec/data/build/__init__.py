"""From raw interactions to a dataset folder; `pipeline.build_dataset` is the way in."""

from skiprec.data.build.download import download
from skiprec.data.build.grocery import build_grocery
from skiprec.data.build.movielens import build_movielens
from skiprec.data.build.pipeline import build_dataset
from skiprec.data.build.publish import is_built
from skiprec.data.build.recipe import Recipe, load_recipe, make_recipe

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
