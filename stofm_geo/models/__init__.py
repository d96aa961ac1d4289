"""SToFM: fit, embed, save, load."""

from stofm_geo.models.settings import Settings
from stofm_geo.models.stofm import SToFM

__all__ = ["SToFM", "Settings"]
