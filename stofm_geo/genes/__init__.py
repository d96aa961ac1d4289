"""Gene scale: from counts to one vector a cell."""

from stofm_geo.genes.counts import as_counts
from stofm_geo.genes.features import CellFeatures, ObsmFeatures, PCAFeatures

__all__ = ["CellFeatures", "ObsmFeatures", "PCAFeatures", "as_counts"]
