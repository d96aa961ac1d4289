"""Plots of slices, embeddings, domains, predictions, attention and training curves."""

from stofm_geo.pl._sheet import check_picture
from stofm_geo.pl.attention import attention
from stofm_geo.pl.confusion import confusion
from stofm_geo.pl.curves import curves
from stofm_geo.pl.domains import domains
from stofm_geo.pl.embedding import embedding
from stofm_geo.pl.predicted import predicted
from stofm_geo.pl.spatial import spatial

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
