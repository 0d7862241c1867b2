"""Puts `skiprec` on Ray and DeepSpeed; no model mathematics here."""
