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
# Your layer in the benchmark

A new layer should be compared with others on the same data, splits, number of parameters and
training. The benchmark suite of the library does this for any layer that takes features, edges and
positions. This tutorial registers a layer, a data set and a task, runs the suite, and reads the
results.
"""

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from IPython.display import Image

from stofm_geo import benchmark

temporary = TemporaryDirectory()
folder = Path(temporary.name)

# %% [markdown]
"""
## A layer in a file

Each cell of the results table (a task, a data set, a split, a model and a seed) runs in a worker
process, so that an error or a time limit ends only this cell. Workers load what you register from
Python files. Usually you write the file in an editor. Here the notebook writes it to a temporary
folder.

A layer is made from a width and maps features `[N, width]` to `[N, width]`. The positions are in
units of the cell spacing. In this example, the weight of a neighbour decreases with its distance,
at a rate that is learned for each channel.
"""

# %%
layer = '''
import torch
from torch import nn
from torch_geometric.nn import MessagePassing

from stofm_geo import benchmark


class DistanceDecay(MessagePassing):
    """Mean over neighbours, weighted by exp(-rate * distance)."""

    def __init__(self, width):
        super().__init__(aggr="mean")
        self.own, self.near = nn.Linear(width, width), nn.Linear(width, width)
        self.rate = nn.Parameter(torch.ones(width))

    def forward(self, x, edge_index, pos):
        return self.own(x) + self.propagate(edge_index, x=self.near(x), pos=pos)

    def message(self, x_j, pos_i, pos_j):
        distance = (pos_i - pos_j).norm(dim=1, keepdim=True)
        return x_j * torch.exp(-self.rate.abs() * distance)


benchmark.register_model("DistanceDecay", layer=DistanceDecay)
'''
(folder / "my_layer.py").write_text(layer)
print("written: my_layer.py")

# %% [markdown]
"""
## A data set and a task

The suite has tasks on real and simulated slices: regions, cell types, domains, deconvolution,
imputation, and others. `stofm-geo benchmark names` lists them. They take minutes to hours, so this
page adds a small data set and a task with one split.

`load` returns slices by name. `obs["group"]` says what must not be in both training and test, such
as the patient. `splits` yields splits. Each makes a problem without the test labels and a function
that scores predictions. Before a cell runs, the suite checks that no group is on both sides and
that no training cell is a neighbour of a test cell.
"""

# %%
task = """
from sklearn.metrics import accuracy_score, f1_score

from stofm_geo import benchmark
from stofm_geo.datasets import toy_tissue


def load(folder):
    tissue = toy_tissue(n_cells=600, n_genes=60, n_slices=2, seed=0)
    slices = {}
    for name in ("slice1", "slice2"):
        slices[name] = tissue[tissue.obs["slice_id"] == name].copy()
        slices[name].obs["group"] = name
    return slices


def splits(slices, dataset):
    def make():
        train, test = slices["slice1"].copy(), slices["slice2"].copy()
        train.obs["label"] = train.obs["region"].astype(str)
        truth = test.obs["region"].astype(str).to_numpy()
        test.obs = test.obs[["group"]]
        problem = benchmark.Problem("classes", [train], [test], sorted(set(truth)))

        def score(predictions):
            return {
                "macro_f1": f1_score(truth, predictions[0], average="macro"),
                "accuracy": accuracy_score(truth, predictions[0]),
            }

        return problem, score

    yield benchmark.Split("slice2 from slice1", make)


benchmark.register_dataset("two slices", load, synthetic=True)
benchmark.register_task("regions of two slices", "classes", ["two slices"], splits)
"""
(folder / "my_task.py").write_text(task)
print("written: my_task.py")

# %% [markdown]
"""
## Run

All graph layers are trained in the same network of three layers with about 300 000 parameters, with
two learning rates, and the same choice between them on held-out tissue. `PCA` is a linear
classifier on principal components of single cells, and `MLP` is the network without neighbours.
They show what can be reached without a graph.

Each finished cell is appended to `cells.jsonl`. If you repeat the call, only missing cells are run.
For a result that counts, use several seeds (`seeds=5`) and processes (`jobs=2`).
"""

# %%
rows = benchmark.run(
    folder / "results",
    tasks=["regions of two slices"],
    models=["PCA", "MLP", "DistanceDecay"],
    seeds=1,
    load=[folder / "my_layer.py", folder / "my_task.py"],
)

# %% [markdown]
"""
In a script of your own, call `run` under `if __name__ == "__main__":`. A script that registers the
layer itself needs no `load`: see `examples/benchmark_own_layer.py` in the repository. The same on
the command line is `stofm-geo benchmark run -o results --load my_layer.py --load my_task.py --tasks
"regions of two slices" --models PCA,MLP,DistanceDecay --seeds 1`. Without the last two options, all
models run, with five seeds; `--data DIR` names the folder of real slices.

## Read the results

A row has the scores, time, memory and versions, and everything that is needed to run it again with
`benchmark.rerun(row)`. `benchmark.report` writes tables and figures for all rows in the folder.
"""

# %%
benchmark.report(folder / "results")
print(sorted(path.name for path in (folder / "results").iterdir()))
Image(folder / "results" / "report-regions of two slices.png", width=400)

# %%
table = {
    row["model"]: {
        **row["scores"],
        "parameters": row["record"].get("parameters"),
        "seconds": row["seconds"],
    }
    for row in rows
}
pd.DataFrame.from_dict(table, orient="index").round(3)

# %% [markdown]
"""
Averages over neighbours help to find regions, so the graph layer is ahead of models of single
cells. Whether it is ahead of other graph layers needs real slices and several seeds.
[Benchmarks](../benchmarks.md) has such a table, and the spread over seeds shows which differences
count.

## Next

- [How results are measured](../dev/measuring.md): splits, sizes, tuning and scores
- [The layer in PyG](layer_in_pyg.py)
- [stofm_geo.benchmark](../api/benchmark.md): models, data sets and tasks of your own
- [Limitations](../limitations.md)
"""
