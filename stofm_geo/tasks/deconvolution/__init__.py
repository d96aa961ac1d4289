"""Deconvolution: estimate the cell-type proportions of spots from a labelled reference."""

from stofm_geo.tasks.deconvolution.deconvolve import deconvolve

__all__ = ["deconvolve"]
