"""Weights that are installed with the library, a folder each, with a model card."""

from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = ("stofm-geo-mini",)
