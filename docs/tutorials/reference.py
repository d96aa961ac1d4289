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
# Deconvolution and imputation

A labelled reference, such as a single-cell data set or a slice of another instrument, adds what a
slice lacks. `tl.deconvolve` estimates the proportions of cell types in spots that contain several
cells. `tl.impute` estimates genes that a panel does not measure. Neither needs a fitted model.

To check the results, we simulate two slices of one tissue. The second is the reference. From the
first, we make spots and a smaller panel, for which the truth is known.
"""

# %%
# %matplotlib inline
import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

import stofm_geo
from stofm_geo import pl, tl

tissue = stofm_geo.datasets.toy_tissue(n_cells=4000, n_slices=2, seed=0)
cells = tissue[tissue.obs["slice_id"] == "slice1"].copy()
reference = tissue[tissue.obs["slice_id"] == "slice2"].copy()

# %% [markdown]
"""
## Make spots

Skip this cell if you have spots, such as those of Visium. It puts a grid of squares over the slice
and adds the counts of all cells in a square. The known proportions are kept in `obsm["known"]`.
"""

# %%
side = 40.0  # micrometres
square = np.floor(cells.obsm["spatial"] / side)
squares, spot_of_cell = np.unique(square, axis=0, return_inverse=True)
member = csr_matrix((np.ones(len(cells)), (spot_of_cell, np.arange(len(cells)))))

spots = ad.AnnData(csr_matrix(member @ cells.X), var=cells.var)
spots.obsm["spatial"] = (squares + 0.5) * side
spots.uns["spatial_unit"] = "um"

types = pd.get_dummies(cells.obs["cell_type"], dtype=float)
known = pd.DataFrame(member @ types.to_numpy(), spots.obs_names, types.columns)
spots.obsm["known"] = known.div(known.sum(axis=1), axis=0)
print(f"{spots.n_obs} spots with {len(cells) / spots.n_obs:.1f} cells each, on average")

# %% [markdown]
"""
## Estimate proportions of cell types

The reference needs raw counts and a column with cell types. Positions in the reference are used if
there are any, because they show which types occur together. A reference of dissociated cells works,
too.

The number of cells per spot is estimated from the counts. This is right if both data sets were
measured with the same sensitivity. Otherwise set `cells_per_spot`. For Visium, 3 to 10 is usual.
"""

# %%
tl.deconvolve(spots, reference, label_key="cell_type", seed=0)
proportions = spots.obsm["stofm_proportions"]
proportions.head().round(2)

# %% [markdown]
"""
Each row sums to 1. The table compares estimated with known proportions for each type, by their
correlation over the spots and by the root mean square error (RMSE). The last column is the RMSE of
predicting the mean proportion for all spots, which any method must improve on.
"""

# %%
truth = spots.obsm["known"]
pd.DataFrame(
    {
        "correlation": proportions.corrwith(truth),
        "RMSE": ((proportions - truth) ** 2).mean() ** 0.5,
        "RMSE of the mean": truth.std(ddof=0),
    }
).round(3)

# %%
some = ["Neuron1", "Neuron5", "Macrophage"]
figure, axes = plt.subplots(2, len(some), figsize=(12, 4.8))
for row, (key, name) in zip(
    axes, {"known": "known", "stofm_proportions": "estimated"}.items(), strict=True
):
    for ax, cell_type in zip(row, some, strict=True):
        pl.spatial(spots, color=f"{key}:{cell_type}", ax=ax, title=f"{cell_type}, {name}")
plt.show()

# %% [markdown]
"""
## Make a panel

An imaging panel measures some hundred genes, and a reference measures more. We remove every fifth
gene from the slice and keep its measured values for the comparison. With your own data, this cell
is not needed.
"""

# %%
hidden = reference.var_names[::5]
panel = cells[:, ~cells.var_names.isin(hidden)].copy()
print(f"{panel.n_vars} genes in the panel, {len(hidden)} hidden")

# %% [markdown]
"""
## Estimate the missing genes

By default, `tl.impute` estimates all genes that the reference has and the slice lacks. Name some
with `genes=[...]` if there are thousands and you need few.

Not every gene can be predicted from the others. `reliability` is the correlation of predicted with
measured values on parts of the reference that were held out. Look at it before you use a gene.
"""

# %%
tl.impute(panel, reference)
imputed = panel.obsm["stofm_imputed"]
reliability = panel.uns["stofm_imputed"]["reliability"]["correlation"]
reliability.sort_values(ascending=False).to_frame().round(2).head()

# %% [markdown]
"""
Here we can compare the reliability with the correlation that was reached on the slice itself.
First, the measured counts are put on the scale of the imputed values: fractions of a cell's counts,
times `scale`, then $\\log(1 + x)$. Points close to the diagonal mean that the reliability can be
trusted. Genes with few counts are at the lower end, since measured values of a rare gene are mostly
counting noise.
"""

# %%
total = panel.X.sum(axis=1)
fractions = cells[:, hidden].X.toarray() / np.asarray(total).reshape(-1, 1)
scale = panel.uns["stofm_imputed"]["scale"]
measured = pd.DataFrame(np.log1p(scale * fractions), panel.obs_names, hidden)

figure, ax = plt.subplots(figsize=(4.5, 4.5))
ax.axline((0, 0), slope=1, color="0.7")
ax.scatter(reliability, imputed.corrwith(measured))
ax.set_xlabel("reliability, from the reference alone")
ax.set_ylabel("correlation with the measured values")
plt.show()

# %% [markdown]
"""
The last picture shows the best gene on the tissue, as measured and as imputed. Imputed values are
smoother, because they are expectations without counting noise.
"""

# %%
best = reliability.idxmax()
panel.obs["measured"] = measured[best]
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
pl.spatial(panel, color="measured", ax=left, title=f"{best}, measured")
pl.spatial(panel, color=f"stofm_imputed:{best}", ax=right, title=f"{best}, imputed")
plt.show()
# %% [markdown]
"""
With real data, reference and slice come from different instruments and patients, and both tasks are
harder. [Benchmarks](../benchmarks.md) has errors and correlations for several pairs of data sets
and compares other methods.

The same on the command line:

```
stofm-geo deconvolve SPOTS.h5ad --reference REFERENCE.h5ad -o spots.h5ad
stofm-geo impute SLICE.h5ad --reference REFERENCE.h5ad -o slice.h5ad
```

## Next

- [Deconvolve spots](../guides/deconvolution.md): options, and references of another species
- [Impute genes](../guides/imputation.md)
- [Denoising](denoising.py): expected counts without a reference
"""
