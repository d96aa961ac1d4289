from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from stofm_geo.datasets import toy_tissue


@pytest.fixture
def predictions() -> ad.AnnData:
    """400 cells of two slices: 90 predicted wrongly, 10 not labelled, 20 not predicted."""
    adata = toy_tissue(400, 10, 2)
    region = adata.obs["region"].astype(str).to_numpy().astype(object)
    names = sorted(set(region))
    guess = region.copy()
    guess[:90] = [names[(names.index(name) + 1) % len(names)] for name in region[:90]]
    guess[380:] = None
    region[370:380] = np.nan
    adata.obs["region"], adata.obs["guess"] = pd.Categorical(region), pd.Categorical(guess)
    return adata
