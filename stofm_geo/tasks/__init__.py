"""What embeddings are for."""

from stofm_geo.tasks.domains import domains

__all__ = ["domains"]
