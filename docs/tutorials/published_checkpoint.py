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
# A published checkpoint

Pretrained weights embed a slice without training. This tutorial shows two kinds: a checkpoint of
the published SToFM, and `stofm-geo-mini`, a small model that is installed with the library.

The published weights must be downloaded, which this page does not do. It makes a checkpoint of the
same layout with small random weights instead, so that you see each step. The domains at the end
come from `stofm-geo-mini`.
"""

# %%
# %matplotlib inline
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import BertConfig, BertModel

import stofm_geo
from stofm_geo import pl, tl
from stofm_geo.genes import RankEncoder, Vocabulary
from stofm_geo.models import official
from stofm_geo.models.official.network import Config

# %% [markdown]
"""
## Read a slice with Ensembl ids

Pretrained models know genes by human Ensembl ids, in `var_names` or in a column of `var`. Symbols
and mouse genes are converted by `stofm_geo.genes.harmonize(adata)`, and
`print(stofm_geo.genes.match_genes(adata))` says beforehand how many genes will be found.

The simulated tissue has no real genes. We give its genes the ids of human genes. They mean nothing
here, but all steps are those of a real slice, `adata = stofm_geo.read("SLICE.h5ad")`.
"""

# %%
mini = stofm_geo.SToFM.from_pretrained("stofm-geo-mini")
adata = stofm_geo.datasets.toy_tissue(n_cells=1500, seed=0)
rng = np.random.default_rng(0)
adata.var_names = rng.choice(list(mini.encoder.genes), adata.n_vars, replace=False)
print(adata.var_names[:3].tolist())

# %% [markdown]
"""
## What a published checkpoint contains

The authors link their weights in the repository `PharMolix/SToFM`. A checkpoint is a folder:

| file | content |
|---|---|
| `config.json`, `se2transformer.pth` | the SE(2) Transformer over cells and macro nodes |
| `cell_encoder/cell_bert/` | the BERT that encodes the genes of a cell by rank |
| `cell_encoder/cell_proj.bin` | the projection of its output to a cell vector |

The tokens of the BERT are defined by the dictionaries of Geneformer, which are a second folder
(`geneformer_001/geneformer` of the same repository). With both folders, two lines embed a slice:

```python
model = stofm_geo.SToFM.from_official("CHECKPOINT", vocabulary="GENEFORMER")
model.embed(adata)
```

The BERT needs `pip install 'stofm-geo[cell-encoder]'`. Files are read without executing code from
them, although `.pth` files are pickles.

## Make a small checkpoint

Skip this cell if you have the published files. It writes random weights in the same layout. The
vocabulary is computed from the slice instead of being read from Geneformer's files, and is saved in
the checkpoint.
"""

# %%
torch.manual_seed(0)
temporary = TemporaryDirectory()
checkpoint = Path(temporary.name, "CHECKPOINT")

vocabulary = Vocabulary.from_corpus([adata])
bert_config = BertConfig(
    vocab_size=len(vocabulary.tokens),
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=256,
)
bert = BertModel(bert_config, add_pooling_layer=False)
cell_encoder = RankEncoder(bert, torch.nn.Linear(32, 32), vocabulary)
network = official.OfficialNetwork(
    Config(
        num_hidden_layers=2,
        embedding_dim=64,
        ffn_embedding_dim=64,
        num_attention_heads=4,
        gaussian_hidden_dim=16,
        input_dim=32,
    )
)
official.save(official.OfficialSToFM(network, cell_encoder), checkpoint)
vocabulary.to_json(checkpoint / "vocabulary.json")
sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file())

# %% [markdown]
"""
## Load it and embed

`from_official` reads the folder. Without `vocabulary`, it looks for one in the folder itself.
`embed` computes the cell vectors from the counts, stores them in `obsm` under a key with a hash of
the encoder's weights, and writes the embeddings into `obsm["X_stofm"]`. Cell vectors that are
already there are used again.
"""

# %%
model = stofm_geo.SToFM.from_official(checkpoint)
model.embed(adata, key_added="X_published")
print({key: values.shape for key, values in adata.obsm.items()})

# %% [markdown]
"""
The published model attends from each node to all nodes of a sub-slice. `attention="edges"` uses the
same weights along the edges of the graph only, which is another function and needs less memory.

`official.save` writes the published layout, which the published code can load. The embeddings of
the saved copy are the same.
"""

# %%
official.save(model, Path(temporary.name, "copy"))
copy = official.load(Path(temporary.name, "copy"), vocabulary=vocabulary)
copy.embed(adata, key_added="X_copy")
print("largest difference:", np.abs(adata.obsm["X_copy"] - adata.obsm["X_published"]).max())

# %% [markdown]
"""
## Embed without a download

`stofm-geo-mini` is a small model of this library. It was pretrained without labels on slices of
several instruments, human and mouse, and accepts any panel of their genes. A cell is the sum of its
gene embeddings, weighted by the principal components of the slice itself. This is why the result is
useful here, although the gene names of this tissue mean nothing.
"""

# %%
mini.embed(adata, progress=False)
tl.domains(adata, n_domains=6, seed=0, progress=False)
axes = pl.domains(adata, label_key="region")
axes[0, 0].get_figure()

# %% [markdown]
"""
On real slices, how close zero-shot embeddings come to a model that was fitted to the slice differs
between tissues: see [Benchmarks](../benchmarks.md). What pretraining adds to an untrained network
of the same kind is small so far: see [Limitations](../limitations.md).

The same on the command line:

```
stofm-geo embed A.h5ad -o a.h5ad --model official:CHECKPOINT --vocabulary GENEFORMER
stofm-geo embed A.h5ad -o a.h5ad --zero-shot
```

## Next

- [Use the published weights](../guides/published-weights.md): what is equal to the published code,
  and what is not
- [Coming from the published SToFM](../coming-from/published-stofm.md)
- [Panels, species and zero-shot](../guides/panels.md)
- [Pre-training on a corpus](pretraining.py): weights of your own
"""
