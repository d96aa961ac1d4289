"""SToFM: fit, embed, save, load."""

from stofm_geo.models.stofm import SToFM

__all__ = ["SToFM"]
