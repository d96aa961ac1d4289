# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
"""
# Your first slice

This tutorial finds the spatial domains of one slice without labels. You read a slice, fit a model
to it, compute an embedding of each cell, cluster the embeddings, and draw the result.

No pretrained weights and no GPU are needed. All results are stored in the `AnnData` object under
the keys that scanpy uses, so that you can go on with scanpy or squidpy.
"""

# %%
# %matplotlib inline
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

import stofm_geo
from stofm_geo import pl, tl

# %% [markdown]
"""
## Read a slice

A slice needs raw counts in `X` and positions in `obsm["spatial"]`. Normalised values are not
suitable, because the model learns from molecules that it holds out, and these must be counts.

Here we simulate a small tissue with known regions. For your own slice, use
`stofm_geo.read("SLICE.h5ad")`. It also reads the output folders of Visium, Xenium, MERSCOPE, CosMx
and other instruments (see [Read and write files](../guides/files.md)).
"""

# %%
adata = stofm_geo.datasets.toy_tissue(n_cells=1500, seed=0)
print(adata)

# %% [markdown]
"""
First look at the slice. Each region of this tissue has its own mixture of cell types, but most
types occur in several regions. A single cell therefore says little about its region. Its
neighbourhood says much more.
"""

# %%
pl.spatial(adata, color="cell_type").get_figure()

# %% [markdown]
"""
## Fit a model

`fit` trains a graph neural network on the slice without labels. For each cell, a part of the
molecules is split off at random, and the network learns to predict it from the remaining molecules
of the cell and of its neighbours.

With `max_steps=40`, training takes a few seconds. For a real slice, leave `max_steps` out. Training
then stops when held-out molecules are no longer predicted better. `progress=False` hides the
progress bar on this page. The same `seed` gives the same weights.
"""

# %%
model = stofm_geo.SToFM()
model.fit(adata, max_steps=40, seed=0, progress=False)
pd.Series(model.training_record)

# %% [markdown]
"""
The record says how the weights were trained. `molecule_loss` is the error on held-out molecules,
and `molecule_loss_of_mean` is the error of a prediction that is the same for all cells. The first
must be lower than the second. `best_step` is the step whose weights were kept. Step 0 is the best
linear prediction, with which training starts. On a tissue as simple as this one, it can be the
best.

## Embed the cells

`embed` writes one vector per cell into `obsm["X_stofm"]`. The vectors do not change if the slice is
rotated, translated or scaled (see [Invariance](../concepts/invariance.md)).
"""

# %%
model.embed(adata, progress=False)
print(adata.obsm["X_stofm"].shape)

# %% [markdown]
"""
## Find domains

`tl.domains` clusters the embeddings and then assigns each cell to the domain of most of its
neighbours. The result is the column `obs["stofm_domain"]`. The toy tissue has six regions, so we
ask for six domains. If you do not know the number of domains, leave `n_domains` out. It is then
chosen by the Leiden algorithm.
"""

# %%
tl.domains(adata, n_domains=6, seed=0, progress=False)
pd.crosstab(adata.obs["region"], adata.obs["stofm_domain"])

# %% [markdown]
"""
## Save the results

The slice with its embeddings and domains is an ordinary `.h5ad` file. The model is a folder with
safetensors and JSON, and `SToFM.from_pretrained` loads it to embed further slices. Here both are
written to a temporary folder.
"""

# %%
temporary = TemporaryDirectory()
folder = Path(temporary.name)
stofm_geo.write(adata, folder / "slice.h5ad")
model.save_pretrained(folder / "my-model")
sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

# %% [markdown]
"""
## Compare domains with regions

`pl.domains` draws known regions beside the domains and gives matching domains the same colour. Your
own slice may have no known regions. Leave `label_key` out, and only the domains are drawn.

The title contains the adjusted Rand index (ARI). It is 1 if domains and regions are equal, and
about 0 if they are unrelated. Labels were used for this comparison only, not for training.
"""

# %%
axes = pl.domains(adata, label_key="region")
axes[0, 0].get_figure()

# %% [markdown]
"""
The domains follow the layers and the lesion. Real tissue is harder, and its regions are matched
less closely: [Benchmarks](../benchmarks.md) has the ARI on real slices beside that of other
methods, and [Limitations](../limitations.md) says where simple averages over neighbours are as
good.

The same steps on the command line:

```
stofm-geo embed SLICE.h5ad -o out.h5ad --n-domains 6 --label-key region --plot out.png
```

## Next

- [Several slices and batch effects](several_slices.py): domains with the same names in all slices
- [Labels for regions and cell types](labels.py): transfer labels to new slices
- [Find domains](../guides/domains.md): all options of `tl.domains`
- [Many or large slices](../guides/scaling.md)
"""
