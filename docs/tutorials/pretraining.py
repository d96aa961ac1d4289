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
# Pre-training on a corpus

A model that is fitted to one slice knows that slice only. Pre-training on many slices gives one
model for all of them, and for slices that it has not seen. This tutorial builds a corpus on disk,
trains on it, looks at the losses, and embeds a slice that was not in the corpus.

All steps are commands. They need `pip install 'stofm-geo[genes,corpus,pretrain]'`. The function
`stofm_geo_command` runs a command in a temporary folder, as you would type it in a shell.
"""

# %%
# %matplotlib inline
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import stofm_geo
from stofm_geo import pl, tl

temporary = TemporaryDirectory()
folder = Path(temporary.name)


def stofm_geo_command(arguments: str) -> None:
    """Run ``stofm-geo`` with these arguments in the temporary folder and print what it says."""
    command = [sys.executable, "-m", "stofm_geo", *shlex.split(arguments)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    print(result.stdout if result.returncode == 0 else result.stderr)
    result.check_returncode()


# %% [markdown]
"""
## Slices on disk

We simulate five slices of a tissue and keep the last one back. Their genes get made-up Ensembl ids,
because a corpus harmonises genes of all its slices to human Ensembl ids. Real slices may have
symbols, and may be of human and mouse.
"""

# %%
tissue = stofm_geo.datasets.toy_tissue(n_cells=4000, n_slices=5, seed=0)
tissue.var_names = [f"ENSG{i:011d}" for i in range(tissue.n_vars)]
is_new = tissue.obs["slice_id"] == "slice5"
stofm_geo.write(tissue[~is_new].copy(), folder / "slices.h5ad")
new = tissue[is_new].copy()

# %% [markdown]
"""
## Build the corpus

`corpus build` reads a slice at a time, harmonises its genes, finds neighbours and macro nodes, and
cuts it into sub-slices. This work is done once, so that training only reads. With your own data,
name many files, folders or patterns (`slices/*.h5ad`), and use `--num-workers`. A slice that cannot
be used is skipped and listed in `failed.csv`. A build that was interrupted continues when you
repeat the command.

`--cells-per-subslice` is small here because the slices are small. The default is 1000.
"""

# %%
stofm_geo_command(
    "corpus build slices.h5ad -o corpus --slice-key slice_id --cells-per-subslice 400"
)

# %% [markdown]
"""
`stofm-geo corpus info corpus` prints how many slices, cells and genes it has, and `stofm-geo corpus
verify corpus` checks all files against their checksums.

## Write a configuration

`pretrain` is the command line of Lightning. Settings are in a YAML file, on the command line, or
both. `examples/configs` in the repository has files for one CPU, one or eight GPUs, and SLURM. The
file below is the one for a CPU with small numbers: 8 steps, and a validation every 2 steps.

`node_budget` limits the nodes of a batch, and so the memory. `held_out` is the fraction of slices
for validation. Whole slices are held out, since sub-slices of one slice resemble each other.
"""

# %%
configuration = """
seed_everything: 0
folder: pretrained
data:
  folder: corpus
  node_budget: 600
  held_out: 0.25
model:
  config:
    encoder: panel
    organism: auto
    n_components: 50
    cells_per_subslice: 400
trainer:
  accelerator: cpu
  max_steps: 8
  log_every_n_steps: 1
  val_check_interval: 2
  check_val_every_n_epoch: null
  enable_progress_bar: false
  enable_model_summary: false
"""
Path(folder, "pretrain.yaml").write_text(configuration)
stofm_geo_command("pretrain --config pretrain.yaml")

# %% [markdown]
"""
The folder `pretrained` contains checkpoints, logs for TensorBoard, and the model that was best on
the held-out slices. If training is interrupted, the same command continues from the last
checkpoint.

## Look at the losses

The panel encoder learns from niches: some cells are hidden, and the network predicts them from
their surroundings (`niche loss`). It also predicts distances after some cells were moved (`distance
loss`). See [Objectives](../concepts/objectives.md). The dashed lines are the losses of a simple
baseline. Training is useful once the loss on held-out slices is below the line.
"""

# %%
axes = pl.curves(folder / "pretrained")
axes[0].get_figure()

# %% [markdown]
"""
## Embed a slice that the model has not seen

The model is loaded like any other. On the command line, this is `stofm-geo embed C.h5ad -o c.h5ad
--model pretrained/model`.
"""

# %%
model = stofm_geo.SToFM.from_pretrained(folder / "pretrained" / "model")
model.embed(new, progress=False)
tl.domains(new, n_domains=6, seed=0, progress=False)
axes = pl.domains(new, label_key="region")
axes[0, 0].get_figure()

# %% [markdown]
"""
Eight steps on four small slices are no pre-training. The domains come mostly from the components
and averages with which the network starts. A real corpus has many slices and takes thousands of
steps. [Benchmarks](../benchmarks.md) compares `stofm-geo-mini`, which was trained in this way, with
an untrained network, and [Limitations](../limitations.md) says how small the difference is so far.

## Next

- [Pre-train on a corpus](../guides/pretraining.md): manifests, several GPUs, SLURM, resuming
- [Objectives](../concepts/objectives.md) and [Sub-slices and macro nodes](../concepts/subslices.md)
- [Labels for regions and cell types](labels.py): train a classifier on the pretrained model
- [Many or large slices](../guides/scaling.md)
"""
