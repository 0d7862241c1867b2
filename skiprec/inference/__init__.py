"""Serving: the executors, and `Recommender` for exported models, which needs no torch.

The names are looked up when they are first used, because the build of the native library imports
this package where not even NumPy is installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skiprec.inference.recommender import Recommendation, Recommender

__all__ = ["Recommendation", "Recommender"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("skiprec.inference.recommender"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
