"""Serving: the executors, and `Recommender` for exported models, which needs no torch."""

from skiprec.inference.recommender import Recommendation, Recommender

__all__ = ["Recommendation", "Recommender"]
