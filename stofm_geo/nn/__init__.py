"""Layers of the SE(2) Transformer, as PyG modules independent of AnnData."""

from stofm_geo.nn.conv import SE2TransformerConv
from stofm_geo.nn.heads import CellHead, DistanceHead
from stofm_geo.nn.irreps import from_irreps, planar_irreps, to_irreps
from stofm_geo.nn.niche import niche_features
from stofm_geo.nn.radial import GaussianRadial, SoftOneHotRadial
from stofm_geo.nn.transformer import SE2Output, SE2Transformer

__all__ = [
    "CellHead",
    "DistanceHead",
    "GaussianRadial",
    "SE2Output",
    "SE2Transformer",
    "SE2TransformerConv",
    "SoftOneHotRadial",
    "from_irreps",
    "niche_features",
    "planar_irreps",
    "to_irreps",
]
