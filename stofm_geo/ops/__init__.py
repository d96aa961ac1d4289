"""Scatter kernels over the edges of a graph: they know tensors, and nothing of tissue."""

from stofm_geo.ops.edge_attention import available_backends, edge_attention

__all__ = ["available_backends", "edge_attention"]
