"""Imputation: estimate genes missing from a panel from a reference that has them."""

from stofm_geo.tasks.imputation.impute import impute

__all__ = ["impute"]
