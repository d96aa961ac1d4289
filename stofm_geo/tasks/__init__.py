"""What embeddings are for."""

from stofm_geo.tasks.annotate import annotate
from stofm_geo.tasks.annotation import Annotator
from stofm_geo.tasks.domains import domains
from stofm_geo.tasks.learning import fine_tune

__all__ = ["Annotator", "annotate", "domains", "fine_tune"]
