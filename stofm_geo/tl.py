"""Tools: AnnData in, results in the same AnnData (scverse's ``tl``)."""

from stofm_geo.tasks.deconvolution import deconvolve
from stofm_geo.tasks.domains import domains

__all__ = ["deconvolve", "domains"]
