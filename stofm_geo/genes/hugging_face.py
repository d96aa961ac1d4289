"""Loading of BERT models of Hugging Face from a local folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

from stofm_geo._files import read_json
from stofm_geo._validation import check_positive, preview
from stofm_geo._weights import check_finite, check_layers, read_torch

_FILES = ("model.safetensors", "pytorch_model.bin")
_SIZES = {  # with the defaults of transformers
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}


def transformers() -> Any:
    """Return the module ``transformers``, an optional dependency.

    Raises:
        ImportError: ``transformers`` is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "the cell encoder needs transformers; pip install 'stofm-geo[cell-encoder]'"
        ) from error
    return transformers


def read_model(kind: Any, folder: Path, **options: Any) -> Any:
    """Load a model that contains a BERT from a folder; only tensors are unpickled.

    Args:
        kind: ``BertModel``, or another class of ``transformers`` that contains one.
        folder: Folder with ``config.json`` and weights.
        options: Options of ``kind.from_pretrained``.

    Raises:
        ValueError: The folder cannot be read, files do not match, layers are missing, or
            weights are not finite.
    """
    settings = read_json(folder / "config.json")
    if not isinstance(settings, dict):
        raise ValueError(f"{folder / 'config.json'}: is not a dictionary of settings")
    _check_sizes(settings, folder)
    with suppress_output():  # suppresses reports of missing layers
        model, info = kind.from_pretrained(
            folder, local_files_only=True, weights_only=True, output_loading_info=True, **options
        )
    missing = [name for name in info["missing_keys"] if not name.startswith(("cls.", "pooler."))]
    if missing:
        raise ValueError(f"{folder}: has no weights {preview(sorted(missing))}")
    check_finite(model.state_dict(), folder)
    return model


def _check_sizes(settings: dict[str, Any], folder: Path) -> None:
    """Check that the stored weights have the configured sizes, before memory is allocated."""
    file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if file is None:
        raise ValueError(f"{folder}: has neither {' nor '.join(_FILES)}")
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as stored:
            shapes = {name: stored.get_slice(name).get_shape() for name in stored.keys()}
    else:
        shapes = {name: list(tensor.shape) for name, tensor in read_torch(file).items()}
    shapes = {name.removeprefix("bert."): shape for name, shape in shapes.items()}
    sizes = {}
    for name in _SIZES:
        check_positive(name, settings.get(name, _SIZES[name]), whole=True)
        sizes[name] = settings.get(name, _SIZES[name])
    check_layers(
        "num_hidden_layers", sizes["num_hidden_layers"], shapes, r"encoder\.layer\.(\d+)\."
    )
    width = sizes["hidden_size"]
    for tensor, rows in (
        ("embeddings.word_embeddings.weight", "vocab_size"),
        ("embeddings.position_embeddings.weight", "max_position_embeddings"),
        ("embeddings.token_type_embeddings.weight", "type_vocab_size"),
        ("encoder.layer.0.intermediate.dense.weight", "intermediate_size"),
    ):
        if shapes.get(tensor) != [sizes[rows], width]:
            raise ValueError(
                f"{file}: {tensor} is {shapes.get(tensor)}, and by config.json "
                f"[{rows}, hidden_size] = {[sizes[rows], width]}"
            )


@contextmanager
def suppress_output() -> Iterator[None]:
    """Suppress progress bars and messages about missing or superfluous layers."""
    logging = transformers().utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
