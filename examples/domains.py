"""Domains of several slices at once, shared by all of them, and how they look.

``python examples/domains.py [SLICES.h5ad]``, slices told apart by ``obs["slice_id"]``; without a
file, two slices of a toy tissue.
"""

import sys

import anndata
from sklearn.metrics import adjusted_rand_score

import stofm_geo
from stofm_geo import pl, tl

if sys.argv[1:]:
    adata = anndata.read_h5ad(sys.argv[1])
else:
    adata = stofm_geo.datasets.toy_tissue(2000, n_slices=2)
slices = "slice_id" if "slice_id" in adata.obs else None
labels = "region" if "region" in adata.obs else None  # for scoring, and for how many
count = adata.obs[labels].nunique() if labels else None  # None: as many as Leiden finds

model = stofm_geo.SToFM().fit(adata, slice_key=slices, seed=0)
model.embed(adata, slice_key=slices)
tl.domains(adata, count, slice_key=slices)
tl.domains(adata, count, slice_key=slices, refine=False, key_added="before_the_vote")

if labels:
    known = adata.obs[adata.obs[labels].notna()]
    for key in ("before_the_vote", "stofm_domain"):
        print(key, f"ARI {adjusted_rand_score(known[labels].astype(str), known[key]):.3f}")
pl.domains(adata, label_key=labels, slice_key=slices, save="domains.png")
pl.embedding(adata, color="stofm_domain", save="embedding.png")  # UMAP, if it is installed
pl.embedding(adata, color=slices, save="embedding_by_slice.png")  # do slices lie apart?
