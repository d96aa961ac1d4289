"""Pictures of slices, of embeddings, and of what was found, predicted and learned."""

from stofm_geo.plot._sheet import check_picture
from stofm_geo.plot.attention import attention
from stofm_geo.plot.confusion import confusion
from stofm_geo.plot.curves import curves
from stofm_geo.plot.domains import domains
from stofm_geo.plot.embedding import embedding
from stofm_geo.plot.predicted import predicted
from stofm_geo.plot.spatial import spatial

__all__ = [
    "attention",
    "check_picture",
    "confusion",
    "curves",
    "domains",
    "embedding",
    "predicted",
    "spatial",
]
