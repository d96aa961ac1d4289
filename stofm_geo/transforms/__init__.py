"""PyG transforms of tissue graphs; none changes its input.

A batch (``data.batch``, with or without ``ptr``) is transformed like its graphs one by one, with
the same random numbers, and ``to_data_list`` separates it again. Positions are ``[N, 2]`` and
finite for cells; integers and half precision are converted to the default dtype.
"""

from stofm_geo.transforms.hetero import HeteroView
from stofm_geo.transforms.macro import JoinMacroNodes, MacroNodes
from stofm_geo.transforms.masking import MaskCells
from stofm_geo.transforms.neighbor_search import gpu_search_unavailable
from stofm_geo.transforms.neighbors import (
    PruneLongEdges,
    SpatialDelaunay,
    SpatialKNN,
    SpatialRadius,
)
from stofm_geo.transforms.positions import NormalizePositions, PerturbPositions, RandomSE2
from stofm_geo.transforms.subslices import SubSlices, SubSliceSequence

__all__ = [
    "HeteroView",
    "JoinMacroNodes",
    "MacroNodes",
    "MaskCells",
    "NormalizePositions",
    "PerturbPositions",
    "PruneLongEdges",
    "RandomSE2",
    "SpatialDelaunay",
    "SpatialKNN",
    "SpatialRadius",
    "SubSliceSequence",
    "SubSlices",
    "gpu_search_unavailable",
]
