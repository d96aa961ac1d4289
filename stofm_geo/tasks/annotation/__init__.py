"""Annotation: predict region or cell-type labels from labelled slices."""

from stofm_geo.tasks.annotation.annotate import annotate
from stofm_geo.tasks.annotation.annotator import Annotator
from stofm_geo.tasks.annotation.fine_tune import fine_tune

__all__ = ["Annotator", "annotate", "fine_tune"]
