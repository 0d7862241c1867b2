"""The configuration of a run: one module for each section, `run.py` for the whole."""
