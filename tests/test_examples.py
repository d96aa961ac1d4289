"""The examples and the README's Python run as they stand (on fewer training steps)."""

from __future__ import annotations

import pickle
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

import stofm_geo
from stofm_geo import SToFM
from stofm_geo.datasets import toy_tissue
from stofm_geo.models import official
from stofm_geo.models.official.network import Config

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch) -> None:
    fit = SToFM.fit
    monkeypatch.setattr(SToFM, "fit", lambda *a, **k: fit(*a, **k, max_steps=2, progress=False))
    monkeypatch.chdir(tmp_path)
    toy_tissue(400, seed=0).write_h5ad("SLICE.h5ad")


# Its cells run in processes of their own, for minutes; test_models.py of the suite has its layer.
SUITE = ROOT / "examples" / "benchmark_own_layer.py"
EXAMPLES = sorted({*ROOT.glob("examples/*.py")} - {SUITE})


@pytest.mark.slow
@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_example(file, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", [file.name, "SLICE.h5ad"])
    runpy.run_path(str(file), run_name="__main__")


@pytest.fixture
def names(tmp_path) -> dict[str, object]:
    """What the README's blocks take for granted: an AnnData, and a published checkpoint."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    adata = toy_tissue(300, seed=0)
    adata.var_names = [f"ENSG{i:011}" for i in range(adata.n_vars)]
    tokens = {"<pad>": 0, "<mask>": 1} | {gene: i + 2 for i, gene in enumerate(adata.var_names)}
    for folder in ("GENEFORMER", "CHECKPOINT/cell_encoder"):
        (tmp_path / folder).mkdir(parents=True)
    medians = dict.fromkeys(adata.var_names, 1.0)
    for name, values in (("token_dictionary", tokens), ("gene_median_dictionary", medians)):
        (tmp_path / "GENEFORMER" / f"{name}.pkl").write_bytes(pickle.dumps(values))
    config = transformers.BertConfig(
        vocab_size=len(tokens) + 1,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=64,
    )
    encoder = tmp_path / "CHECKPOINT" / "cell_encoder"
    transformers.BertModel(config).save_pretrained(encoder / "cell_bert")
    torch.save(torch.nn.Linear(8, 6).state_dict(), encoder / "cell_proj.bin")
    official.save(official.OfficialNetwork(Config(1, 16, 8, 2, 4, 6)), tmp_path / "CHECKPOINT")
    return {"adata": adata, "stofm_geo": stofm_geo}


def test_readme_has_blocks() -> None:
    assert len(BLOCKS) == 3


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=["biologist", "graph learner", "published weights"])
def test_readme_block(block, names) -> None:
    exec(compile(block, "README.md", "exec"), names)
