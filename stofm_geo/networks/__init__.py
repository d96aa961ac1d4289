"""Networks and their configuration."""

from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.stofm import SToFMNetwork

__all__ = ["SToFMConfig", "SToFMNetwork"]
