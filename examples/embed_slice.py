"""For biologists: a slice in, domains and a picture out.

``python examples/embed_slice.py [SLICE.h5ad]``; without a file, a toy tissue.
"""

import sys

import anndata

import stofm_geo

adata = anndata.read_h5ad(sys.argv[1]) if sys.argv[1:] else stofm_geo.datasets.toy_tissue()

model = stofm_geo.SToFM().fit(adata, seed=0)  # no labels, no pretrained weights
model.embed(adata)  # adata.obsm["X_stofm"], n x 256
stofm_geo.tl.domains(adata, n_domains=6)  # adata.obs["stofm_domain"]
stofm_geo.pl.domains(adata, save="domains.png")
model.save_pretrained("my-model")  # SToFM.from_pretrained("my-model") embeds further slices
