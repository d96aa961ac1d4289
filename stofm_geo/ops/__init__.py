"""Operators on graphs: attention and sums over edges, dense attention, interpolation.

They take tensors only, and know nothing of tissue or AnnData.
"""

from stofm_geo.ops.dense_attention import dense_attention
from stofm_geo.ops.edge_attention import available_backends, edge_attention
from stofm_geo.ops.edge_sum import edge_sum
from stofm_geo.ops.graph import EdgeGraph
from stofm_geo.ops.interpolation import interpolate
from stofm_geo.ops.rotated_sum import rotated_sum

__all__ = [
    "EdgeGraph",
    "available_backends",
    "dense_attention",
    "edge_attention",
    "edge_sum",
    "interpolate",
    "rotated_sum",
]
