"""The published SToFM (ICML 2025, arXiv 2507.11588): its checkpoints, its numbers."""

from stofm_geo.models.official.macro import macro_nodes
from stofm_geo.models.official.model import OfficialSToFM, load, save
from stofm_geo.models.official.network import OfficialNetwork
from stofm_geo.models.official.pretraining import OfficialMaskingConfig, losses, mask_subslice
from stofm_geo.models.official.slices import subslices

__all__ = [
    "OfficialMaskingConfig",
    "OfficialNetwork",
    "OfficialSToFM",
    "load",
    "losses",
    "macro_nodes",
    "mask_subslice",
    "save",
    "subslices",
]
