"""Downstream tasks: annotation, spatial domains, deconvolution and imputation."""

from stofm_geo.tasks.annotation import Annotator, annotate, fine_tune
from stofm_geo.tasks.domains import domains

__all__ = ["Annotator", "annotate", "domains", "fine_tune"]
