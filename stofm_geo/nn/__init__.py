"""Layers of the SE(2) Transformer: plain graph learning, nothing of AnnData."""

from stofm_geo.nn.conv import SE2TransformerConv
from stofm_geo.nn.heads import DistanceHead
from stofm_geo.nn.niche import niche
from stofm_geo.nn.radial import GaussianRadialBias
from stofm_geo.nn.transformer import SE2Transformer

__all__ = [
    "DistanceHead",
    "GaussianRadialBias",
    "SE2Transformer",
    "SE2TransformerConv",
    "niche",
]
