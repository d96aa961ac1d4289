"""Tools: AnnData in, results in the same AnnData (scverse's ``tl``)."""

from stofm_geo.tasks.annotation import annotate
from stofm_geo.tasks.deconvolution import deconvolve
from stofm_geo.tasks.denoising import denoise
from stofm_geo.tasks.domains import domains
from stofm_geo.tasks.imputation import impute
from stofm_geo.tasks.integration import integrate

__all__ = ["annotate", "deconvolve", "denoise", "domains", "impute", "integrate"]
