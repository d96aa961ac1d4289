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
# Several slices and batch effects

This tutorial finds domains that have the same names in several slices. Slices of several patients
or instruments differ for technical reasons, which are called batch effects. You see what they do to
joint domains, how `tl.domains` removes them, and how a new slice gets the domains of an earlier
analysis.
"""

# %%
# %matplotlib inline
import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.metrics import adjusted_rand_score

import stofm_geo
from stofm_geo import pl, tl

# %% [markdown]
"""
## Read the slices

`obs["slice_id"]` names the slice of each cell. All functions take this column as `slice_key`. It is
needed because the coordinates of several slices usually overlap, and cells of different slices must
not become neighbours. Slices in separate files can also be passed as a list, `fit([a, b])`.

We simulate three slices of one tissue and put the third aside as the new slice.
"""

# %%
tissue = stofm_geo.datasets.toy_tissue(n_cells=3000, n_slices=3, seed=0)
is_new = tissue.obs["slice_id"] == "slice3"
adata, new = tissue[~is_new].copy(), tissue[is_new].copy()
print(adata)

# %% [markdown]
"""
The batch effects of the toy tissue are mild. We add a strong one: in slice 2, each gene is detected
at a rate of its own. Skip this cell if you use your own slices.
"""

# %%
rng = np.random.default_rng(0)
counts = adata.X.toarray()
second = (adata.obs["slice_id"] == "slice2").to_numpy()
counts[second] = rng.binomial(counts[second], rng.uniform(0.15, 1, adata.n_vars))
adata.X = csr_matrix(counts)

# %% [markdown]
"""
## Fit one model to all slices

One model must embed all slices, because embeddings of different models cannot be compared. For real
slices, leave `max_steps` out.
"""

# %%
model = stofm_geo.SToFM().fit(adata, slice_key="slice_id", max_steps=30, seed=0, progress=False)
model.embed(adata, slice_key="slice_id", progress=False)

# %% [markdown]
"""
Colour the embedding by slice. If the slices lie apart, a batch effect is likely. It can also be a
real difference, such as that between the tumours of two patients, and no method can tell the two
apart from the counts alone.
"""

# %%
pl.embedding(adata, color="slice_id").get_figure()

# %% [markdown]
"""
## Find joint domains

`tl.domains` clusters the cells of all slices together. Before that, it integrates the slices. With
`integrate="auto"`, the default, it does so only if the slices lie apart, since integration can also
remove differences that matter. We compare this with `integrate="none"`.

`auto` chooses between Harmony and centring. Harmony takes part if it is installed (`pip install
'stofm-geo[integrate]'`).
"""

# %%
for method in ("none", "auto"):
    tl.domains(
        adata,
        n_domains=6,
        slice_key="slice_id",
        integrate=method,
        key_added=f"domain_{method}",
        seed=0,
        progress=False,
    )
record = adata.uns["domain_auto_slices"]
print(f"integrated by: {record['integrate']}")
pd.DataFrame({name: of for name, of in record.items() if isinstance(of, dict)}).round(2)

# %% [markdown]
"""
The record says which method was chosen, and compares the candidates. `mixing` is 0 if the slices
lie apart in the embedding and 1 if they are mixed as if by chance. `correspondence` is high if a
place in one slice has a counterpart in the others. Neither uses labels.

The toy tissue has known regions, so we can check the result. The first column of the table is the
agreement of domains with regions over all cells. The second is the agreement of domains with
slices, which must be close to 0.
"""

# %%
(
    pd.DataFrame(
        {
            known: {
                f"domain_{method}": adjusted_rand_score(
                    adata.obs[known], adata.obs[f"domain_{method}"]
                )
                for method in ("none", "auto")
            }
            for known in ("region", "slice_id")
        }
    ).round(2)
    + 0
)  # -0.0 becomes 0.0

# %% [markdown]
"""
## Give a new slice the same domains

Often, further slices follow after an analysis. With `reference`, a new slice gets the domains,
names and colours of earlier slices, and these stay as they are. The new slice is embedded by the
same model. A domain that the reference lacks cannot be found in this way.
"""

# %%
model.embed(new, progress=False)
tl.domains(new, reference=adata, slice_key="slice_id", key_added="domain_auto", progress=False)
print(f"ARI of the new slice: {adjusted_rand_score(new.obs['region'], new.obs['domain_auto']):.2f}")

# %% [markdown]
"""
## Draw all slices

The last picture has known regions on the left and domains on the right of each slice. A colour
means the same domain in all three.
"""

# %%
every = ad.concat([adata, new])
axes = pl.domains(every, "domain_auto", label_key="region", slice_key="slice_id")
axes[0, 0].get_figure()

# %% [markdown]
"""
The domains of all slices match the regions, although slice 2 was measured differently and slice 3
was not part of the fit. On real slices of several patients, part of the difference between slices
is biological, and joint domains match regions less closely. [Benchmarks](../benchmarks.md) and
[Limitations](../limitations.md) have the numbers.

On the command line: `stofm-geo embed A.h5ad B.h5ad -o folder --slice-key slice_id`, with
`--integrate` and `--reference` for the options above.

## Next

- [Integrate slices](../guides/integration.md): `tl.integrate`, which stores the integrated
  embedding
- [Find domains](../guides/domains.md)
- [Panels, species and zero-shot](../guides/panels.md): slices with different genes
- [Many or large slices](../guides/scaling.md)
"""
