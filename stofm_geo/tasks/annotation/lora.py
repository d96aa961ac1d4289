"""Low-rank adapters of the Transformer's linear layers (peft), present only during training.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685).
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch_geometric.nn.dense.linear import Linear

from stofm_geo.networks.stofm import SToFMNetwork

_RANK, _DROPOUT = 8, 0.1
_LAYERS = ("lin_query", "lin_key", "lin_value", "lin_out", "feed_forward.0", "feed_forward.2")


def check_installed() -> None:
    """Check that peft is installed.

    Raises:
        ImportError: peft is not installed.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "method='lora' needs peft: pip install 'stofm-geo[finetune]'; "
            "or use method='probe' or 'full', which need no extra package"
        ) from error


def add_adapters(network: SToFMNetwork) -> Any:
    """Return the network with LoRA adapters, zero at first; other weights are frozen.

    peft supports only torch's linear layers, so PyG's are replaced by them, with the same weights.
    """
    from peft import LoraConfig, LoraModel

    for block in network.transformer.blocks:
        for name in ("lin_query", "lin_key", "lin_value"):
            layer = getattr(block.attention, name)
            if isinstance(layer, Linear):
                setattr(block.attention, name, _torch_linear(layer))
    config = LoraConfig(
        r=_RANK,
        lora_alpha=2 * _RANK,
        lora_dropout=_DROPOUT,
        # The projection is 0 where training did not pay, and would hold all gradients up.
        target_modules=r"project|transformer\.blocks\..*\.("
        + "|".join(_LAYERS).replace(".", r"\.")
        + ")",
    )
    return LoraModel(network, config, "default")


def merge_adapters(model: Any) -> SToFMNetwork:
    """Return the network with the adapters merged into its weights, all trainable."""
    return model.merge_and_unload().requires_grad_()


def _torch_linear(layer: Linear) -> nn.Linear:
    linear = nn.Linear(layer.in_channels, layer.out_channels, bias=layer.bias is not None)
    linear.weight, linear.bias = layer.weight, layer.bias
    return linear
