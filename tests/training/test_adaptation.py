from __future__ import annotations

import numpy as np
import torch

from stofm_geo.genes import Vocabulary
from stofm_geo.training.adaptation import mask_tokens

GENES = [f"ENSG{i}" for i in range(50)]
VOCABULARY = Vocabulary(
    {name: i for i, name in enumerate(["<pad>", "<mask>", *GENES, "<cls>"])},
    dict.fromkeys(GENES, 1.0),
)


def test_genes_are_hidden_as_bert_does() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(2, 52, (400, 60), dtype=torch.int32)
    tokens[:, 0], tokens[:, 50:] = 52, 0
    shown, asked = mask_tokens(tokens, VOCABULARY, torch.arange(2, 52), 0.15)
    assert shown.dtype == torch.int32 and not asked[:, 0].any() and not asked[:, 50:].any()
    assert torch.equal(shown[~asked], tokens[~asked])
    assert abs(asked[:, 1:50].float().mean() - 0.15) < 0.01
    masked, kept = shown[asked] == 1, shown[asked] == tokens[asked]
    assert abs(masked.float().mean() - 0.8) < 0.03
    assert abs(kept.float().mean() - 0.1 - 0.1 / 50) < 0.03
    others = shown[asked][~masked & ~kept].numpy()
    assert set(np.unique(others)) <= set(range(2, 52)) and len(np.unique(others)) > 40
