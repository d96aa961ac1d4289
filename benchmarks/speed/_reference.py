"""The published model, from a user's own checkout of PharMolix/SToFM; nothing of it is kept here.

Of that repository ``model/se2transformer.py`` and ``model/utils.py`` are imported. What these
import from ``transformers`` (a base class, GELU) and ``geneformer`` (data collators, not used here)
is replaced by stand-ins, so that neither is needed, nor a GPU.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn


def published_model(folder: Path, **settings: Any) -> nn.Module:
    """The published model, with settings by their published names."""
    _stand_in()
    sys.path.insert(0, str(folder))
    from model.se2transformer import SToFMModel
    from model.utils import SToFMConfig

    return SToFMModel(SToFMConfig(**settings))


def published_extraction(folder: Path) -> ModuleType:
    """The published making of sub-slices; needs scanpy."""
    _stand_in()
    for name in ("cupy", "rapids_singlecell", "pytz"):
        sys.modules[name] = ModuleType(name)
    sys.modules["datasets"] = ModuleType("datasets")
    sys.modules["datasets"].load_from_disk = None  # type: ignore[attr-defined]
    sys.path.insert(0, str(folder))
    from model import extraction

    return extraction


def _stand_in() -> None:
    class Pretrained(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.config = config

        def post_init(self) -> None:
            self.apply(self._init_weights)

    class Config:
        def __init__(self, **settings: Any) -> None:
            self.__dict__.update(settings)

    collators = ("DataCollatorForCellClassification", "PrecollatorForGeneAndCellClassification")
    stand_ins: dict[str, dict[str, Any]] = {
        "transformers": {},
        "transformers.activations": {"ACT2FN": {"gelu": nn.functional.gelu}},
        "transformers.configuration_utils": {"PretrainedConfig": Config},
        "transformers.modeling_outputs": dict.fromkeys(
            ("BaseModelOutput", "BaseModelOutputWithNoAttention"), dict
        ),
        "transformers.modeling_utils": {"PreTrainedModel": Pretrained},
        "transformers.utils": {"logging": logging},
        "geneformer": {collators[0]: object},
        "geneformer.collator_for_classification": {collators[1]: object},
        "geneformer.pretrainer": {"token_dictionary": {}},
    }
    for name, content in stand_ins.items():
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__dict__.update(content)
