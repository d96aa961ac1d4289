"""BERTs of Hugging Face: read from a folder without a word, or made anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def transformers() -> Any:
    """The library, an extra.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "the cell encoder needs transformers; pip install 'stofm-geo[cell-encoder]'"
        ) from error
    return transformers


@contextmanager
def silence() -> Iterator[None]:
    """Neither progress bars nor news of layers that a folder has too many or too few of."""
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
