"""Scatter kernels over the edges of a graph: they know tensors, and nothing of tissue."""

from stofm_geo.ops.dense_attention import dense_attention
from stofm_geo.ops.edge_attention import available_backends, edge_attention
from stofm_geo.ops.edge_sum import edge_sum
from stofm_geo.ops.graph import EdgeGraph
from stofm_geo.ops.interpolation import interpolate

__all__ = [
    "EdgeGraph",
    "available_backends",
    "dense_attention",
    "edge_attention",
    "edge_sum",
    "interpolate",
]
