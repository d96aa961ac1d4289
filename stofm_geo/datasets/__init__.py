"""Made-up data with a known answer, for examples, tests and measurements."""

from stofm_geo.datasets.stars import toy_stars
from stofm_geo.datasets.tissue import toy_tissue

__all__ = ["toy_stars", "toy_tissue"]
