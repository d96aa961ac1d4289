"""Denoising: the expected expression of each cell."""

from stofm_geo.tasks.denoising.denoise import denoise as denoise
