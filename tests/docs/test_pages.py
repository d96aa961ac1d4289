"""The Python of the README and of the pages runs as it stands, on small tissue and few steps."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

from stofm_geo import SToFM, datasets
from stofm_geo.models import official
from stofm_geo.models.official.network import Config

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^( *)```python[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if BLOCK.search(page.read_text()) and "dev" not in page.parts
]


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tissue is small, fits are short, and the folder is a new one with a slice."""
    fit, toy_tissue = SToFM.fit, datasets.toy_tissue

    def short_fit(self: SToFM, *args, **options):
        return fit(self, *args, **{**options, "max_steps": 2, "progress": False})

    def small_tissue(n_cells: int = 2000, n_genes: int = 200, *args, **options):
        return toy_tissue(min(n_cells, 600), n_genes, *args, **options)

    monkeypatch.setattr(SToFM, "fit", short_fit)
    monkeypatch.setattr(datasets, "toy_tissue", small_tissue)
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    toy_tissue(400, seed=0).write_h5ad("SLICE.h5ad")


@pytest.fixture
def checkpoint(small: None) -> None:
    """A checkpoint in the form of the published one, and its vocabulary."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    genes = [f"ENSG{i:011}" for i in range(200)]
    tokens = {"<pad>": 0, "<mask>": 1} | {gene: i + 2 for i, gene in enumerate(genes)}
    for folder in ("GENEFORMER", "CHECKPOINT/cell_encoder"):
        Path(folder).mkdir(parents=True)
    medians = dict.fromkeys(genes, 1.0)
    for name, values in (("token_dictionary", tokens), ("gene_median_dictionary", medians)):
        Path("GENEFORMER", f"{name}.pkl").write_bytes(pickle.dumps(values))
    config = transformers.BertConfig(
        vocab_size=len(tokens) + 1,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=64,
    )
    encoder = Path("CHECKPOINT", "cell_encoder")
    transformers.BertModel(config).save_pretrained(encoder / "cell_bert")
    torch.save(torch.nn.Linear(8, 6).state_dict(), encoder / "cell_proj.bin")
    official.save(official.OfficialNetwork(Config(1, 16, 8, 2, 4, 6)), Path("CHECKPOINT"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page: Path, checkpoint: None) -> None:
    names: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(BLOCK.finditer(page.read_text())):
        exec(compile(block[2], f"{page.name}, block {number}", "exec"), names)
