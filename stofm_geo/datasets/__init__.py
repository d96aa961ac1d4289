"""Synthetic data with known labels, for examples, tests and benchmarks."""

from stofm_geo.datasets.stars import toy_stars
from stofm_geo.datasets.tissue import toy_tissue

__all__ = ["toy_stars", "toy_tissue"]
