"""Regions and cell types: learned on one part of a tissue, predicted on the other.

``python examples/annotate.py [SLICE.h5ad]``; without a file, a toy tissue. The half that shows
most labels is learned from; ``obs["region"]`` or ``obs["cell_type"]`` must hold them.
"""

import sys

import anndata
import numpy as np

import stofm_geo
from stofm_geo.tasks import fine_tune

adata = anndata.read_h5ad(sys.argv[1]) if sys.argv[1:] else stofm_geo.datasets.toy_tissue()
labels = adata.obs["region" if "region" in adata.obs else "cell_type"]
halves = [x < np.median(x) for x in np.asarray(adata.obsm["spatial"])[:, :2].T]
half = max(halves, key=lambda mask: labels[mask].nunique())  # the one that shows most labels
known, unknown = adata[half].copy(), adata[~half].copy()

model = stofm_geo.SToFM().fit(known, seed=0)  # no labels yet
for task in ("region", "cell_type"):
    if task not in adata.obs:
        continue
    # A linear classifier on frozen embeddings; method="lora" or "full" go on end to end.
    annotator = fine_tune(model, known, task, task=task, seed=0)
    annotator.predict(unknown, key_added=f"predicted_{task}", min_probability=0.5)
    print(unknown.obs[f"predicted_{task}"].value_counts())

    scores = annotator.evaluate(unknown, task)
    print(f"{task}: accuracy {scores['accuracy']:.3f}, macro-F1 {scores['macro_f1']:.3f}")
    annotator.save(f"my-{task}-model")  # Annotator.load("my-region-model") labels further slices
