"""Tools: AnnData in, results in the same AnnData (scverse's ``tl``)."""

from stofm_geo.tasks.annotate import annotate
from stofm_geo.tasks.domains import domains

__all__ = ["annotate", "domains"]
