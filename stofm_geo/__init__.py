"""SToFM as a PyTorch Geometric library: tissue as graphs, an SE(2) Transformer on their edges."""

from stofm_geo import datasets, tl, transforms
from stofm_geo import plot as pl
from stofm_geo._version import __version__
from stofm_geo.data import from_anndata
from stofm_geo.models import Settings, SToFM

__all__ = [
    "SToFM",
    "Settings",
    "__version__",
    "datasets",
    "from_anndata",
    "pl",
    "tl",
    "transforms",
]
