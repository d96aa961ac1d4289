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
# Denoising

A cell of a spatial slice often has only some hundred molecules. A count of 0 or 2 is then mostly
chance. `tl.denoise` estimates the expected count of each gene in each cell from all genes of the
cell and of its neighbours. It also measures, for each gene and each cell, how far the estimates can
be trusted.
"""

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

import stofm_geo
from stofm_geo import pl, tl

# %% [markdown]
"""
## Read a slice

Denoising needs whole raw counts in `X` and positions in `obsm["spatial"]`. With your own slice, use
`adata = stofm_geo.read("SLICE.h5ad")` and skip the next cell.

To check the result, we set half of the molecules aside. Each molecule is assigned to one of two
halves at random. Both halves have the same expected counts, but their counting noise is
independent. A good estimate from the first half is therefore close to the second half.
"""

# %%
adata = stofm_geo.datasets.toy_tissue(n_cells=1500, seed=0)
counts = adata.X.toarray()
second_half = np.random.default_rng(0).binomial(counts, 0.5)
first_half = counts - second_half
adata.X = csr_matrix(first_half)
print(f"{adata.X.sum(axis=1).mean():.0f} molecules per cell, {adata.n_vars} genes")

# %% [markdown]
"""
## Denoise

`tl.denoise` fits a model first, unless you pass one that was fitted to held-out molecules. For a
real slice, leave `max_steps` out. For a transcriptome of thousands of genes, name those that you
need with `genes=[...]`, since the full layer is a dense matrix.
"""

# %%
tl.denoise(adata, max_steps=30, seed=0, progress=False)
denoised = adata.layers["stofm_denoised"]

# %% [markdown]
"""
The layer contains expected counts, of the same total per cell as the counts in `X`. The counts in
`X` stay as they are. Use them, and not the layer, for statistical tests: denoised values are
correlated between cells, and p-values from them would be too small.

## Compare with the second half

The table has the mean squared error between the counts of the second half and three predictions of
them. The last row is the error that counting noise alone would cause. No prediction can be better.
"""

# %%
fraction = first_half.sum(axis=0) / first_half.sum()
predictions = {
    "mean fraction of the gene": first_half.sum(axis=1, keepdims=True) * fraction,
    "counts of the first half": first_half,
    "denoised": denoised,
}
errors = {name: ((values - second_half) ** 2).mean() for name, values in predictions.items()}
errors["counting noise (lower bound)"] = second_half.mean()
pd.Series(errors, name="mean squared error").to_frame().round(2)

# %% [markdown]
"""
## See which genes can be trusted

You do not need to set molecules aside yourself. `tl.denoise` holds out a tenth of them before the
fit, and measures how much of their deviance the estimates explain ($D^2$). 0 is no better than the
mean fraction of the gene, and 1 cannot be reached because of counting noise. The values are in
`var`, `obs` and `uns`.
"""

# %%
print(f"all genes: D2 = {adata.uns['stofm_denoised']['d2']:.3f}")
reliability = adata.var["stofm_denoised_d2"].sort_values(ascending=False)
reliability.to_frame().iloc[[0, 1, 2, -3, -2, -1]].round(3)

# %% [markdown]
"""
Genes with low values have few molecules, or vary in a way that other genes and neighbours do not
show. Their estimates are close to the mean of the gene. Do not interpret their patterns.

## Draw one gene

With your own slice, draw a gene that you know. Here we take the gene whose denoised values change
most with `obs["depth"]`, the known depth below the surface of the toy tissue. Values are divided by
the total of the cell, so that the number of molecules of a cell plays no role. In the counts of
single cells, the gradient is hard to see.
"""

# %%
fractions = denoised / denoised.sum(axis=1, keepdims=True)
along_depth = pd.DataFrame(fractions, adata.obs_names, adata.var_names).corrwith(adata.obs["depth"])
gene = along_depth.abs().idxmax()
column = adata.var_names.get_loc(gene)
adata.obs["counts"] = first_half[:, column] / first_half.sum(axis=1)
adata.obs["denoised"] = fractions[:, column]
print(f"{gene}: D2 = {reliability[gene]:.3f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4))
pl.spatial(adata, color="counts", ax=left, title=f"{gene}, fraction of the counts")
pl.spatial(adata, color="denoised", ax=right, title=f"{gene}, denoised fraction")
plt.show()

# %% [markdown]
"""
On real slices, how much is gained depends on the number of molecules per cell.
[Benchmarks](../benchmarks.md) has the errors on several instruments beside those of other methods,
and [Limitations](../limitations.md) says where simple averages are as good or better.

On the command line: `stofm-geo denoise SLICE.h5ad -o denoised.h5ad`.

## Next

- [Denoise counts](../guides/denoising.md): all options, and models that are used again
- [Objectives](../concepts/objectives.md): how counts are split, and why
- [Deconvolution and imputation](reference.py): genes that the panel lacks
"""
