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
# Labels for regions and cell types

Often one slice has been annotated by hand, and further slices are to get the same labels. This
tutorial trains a classifier on the labelled slice and predicts the labels of a second one. It does
so for regions, which describe the tissue around a cell, and for cell types, which describe the cell
itself.
"""

# %%
# %matplotlib inline
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

import stofm_geo
from stofm_geo import pl
from stofm_geo.tasks import fine_tune

# %% [markdown]
"""
## Read a labelled and an unlabelled slice

The labels are in a column of `obs`. Cells without a label (missing values) are ignored. We use two
slices of a simulated tissue: the first is the labelled one. The labels of the second are used at
the end only, to score the predictions.

With your own slices, read each file by `stofm_geo.read("SLICE.h5ad")`. Both need the same genes, or
at least many genes in common.
"""

# %%
tissue = stofm_geo.datasets.toy_tissue(n_cells=1600, n_slices=2, seed=0)
labelled = tissue[tissue.obs["slice_id"] == "slice1"].copy()
other = tissue[tissue.obs["slice_id"] == "slice2"].copy()
pl.spatial(labelled, color="region").get_figure()

# %% [markdown]
"""
## Fit a model to both slices

The model does not use labels, so it may see all slices, also those to be labelled. This helps if
they were measured differently. For real slices, leave `max_steps` out. A model that was saved
earlier, or the installed model `SToFM.from_pretrained("stofm-geo-mini")`, can be used instead.
"""

# %%
model = stofm_geo.SToFM().fit([labelled, other], max_steps=30, seed=0, progress=False)

# %% [markdown]
"""
## Train an annotator

`fine_tune` trains a linear classifier on the frozen embeddings. This is the default,
`method="probe"`, and it takes seconds. `"mlp"` adds a hidden layer, and `"lora"` and `"full"` also
train the network. On real slices, they have not been better than `"probe"` so far (see
[Benchmarks](../benchmarks.md)), so start with it.

`task` says what the labels describe. For `"region"`, the classifier also reads the embeddings of
the surroundings. For `"cell_type"`, it reads mainly the cell itself.
"""

# %%
annotators = {
    task: fine_tune(model, labelled, label_key=task, task=task, seed=0, progress=False)
    for task in ("region", "cell_type")
}
pd.DataFrame.from_dict(
    {task: annotator.record["held_out"] for task, annotator in annotators.items()}, orient="index"
).round(2)

# %% [markdown]
"""
These scores are those of cross-validation on the labelled slice. Whole blocks of tissue are held
out, not single cells, since neighbours of a cell reveal its region. They are an estimate of what to
expect on a new slice of the same kind.

## Predict the labels of the other slice

`predict` writes the labels into a column of `obs` and their calibrated probabilities into `obsm`.
With `min_probability`, cells without a confident prediction are called `"unassigned"`. Set it if
the new slice may contain something that the labelled slice lacks.
"""

# %%
for task, annotator in annotators.items():
    annotator.predict(other, key_added=f"predicted_{task}", min_probability=0.4)
other.obs["predicted_region"].value_counts().to_frame()

# %% [markdown]
"""
`evaluate` scores the predictions against known labels, if there are any. Accuracy counts all cells
alike. Macro-F1 counts all labels alike, also rare ones. `calibration_error` is small if
probabilities can be trusted.
"""

# %%
scores = {task: annotator.evaluate(other, task) for task, annotator in annotators.items()}
columns = ["cells", "accuracy", "macro_f1", "calibration_error"]
pd.DataFrame.from_dict(scores, orient="index")[columns].round(3)

# %% [markdown]
"""
## Save the annotator

The folder contains the model and the classifier. `Annotator.load` reads it, and `stofm-geo predict
B.h5ad --model my-regions -o b.h5ad` labels further files.
"""

# %%
temporary = TemporaryDirectory()
folder = Path(temporary.name, "my-regions")
annotators["region"].save(folder)
print(stofm_geo.Annotator.load(folder))

# %% [markdown]
"""
## See where cell types are confused

Each row of the matrix is a known type. Neurons of different layers have similar expression, so most
confusions are between them.
"""

# %%
pl.confusion(other, "predicted_cell_type", label_key="cell_type").get_figure()

# %% [markdown]
"""
## See where regions are wrong

The third panel marks the wrong cells. Errors at borders between regions are expected, since such
cells have neighbours of both. Errors inside a region would call for more labelled tissue.
"""

# %%
axes = pl.predicted(other, "predicted_region", label_key="region")
axes[0, 0].get_figure()

# %% [markdown]
"""
A real slice of the same patient gives a similar picture with more errors. Slices of other patients,
instruments or species are harder still. [Benchmarks](../benchmarks.md) has scores for each of these
cases.

If you do not need the annotator, `tl.annotate(other, labelled, "region")` does all steps at once.

## Next

- [Annotate cells and regions](../guides/annotation.md): all methods and options
- [Panels, species and zero-shot](../guides/panels.md): labels across panels and species
- [Deconvolution and imputation](reference.py): other uses of a labelled reference
- [Limitations](../limitations.md)
"""
