"""Pictures of slices and of the domains found in them."""

from stofm_geo.plot._sheet import check_picture
from stofm_geo.plot.domains import domains
from stofm_geo.plot.spatial import spatial

__all__ = ["check_picture", "domains", "spatial"]
