"""Formats, in and out: which there are, and one reader and one writer for all of them."""

from stofm_geo.data.io.reading import read
from stofm_geo.data.io.writing import Target, output_targets, write

__all__ = ["Target", "output_targets", "read", "write"]
