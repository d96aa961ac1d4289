"""Where a saved model lies: a folder, one that is installed with the library, or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from stofm_geo._quiet import quiet
from stofm_geo._replace import settle
from stofm_geo.models import shipped
from stofm_geo.models.storage import CONFIG, WEIGHTS


def in_folder(folder: Path, written_by: str) -> tuple[Path, Path]:
    """Configuration and weights in a folder.

    Args:
        folder: Where they should be.
        written_by: What writes such folders, for the message.

    Raises:
        ValueError: One is not there.
    """
    settle(folder)
    files = folder / CONFIG, folder / WEIGHTS
    if missing := [file.name for file in files if not file.is_file()]:
        raise ValueError(
            f"{folder}: has no {' and no '.join(missing)}; name a folder that {written_by} has "
            "written"
        )
    return files


def locate(name: str, hub: dict[str, Any]) -> tuple[Path, Path]:
    """Configuration and weights of a :class:`~stofm_geo.SToFM`, here or fetched from the hub.

    Args:
        name: A folder, a name of ``shipped.NAMES``, or a repository of the hub (owner/name).
        hub: Of ``huggingface_hub.hf_hub_download``.

    Raises:
        ValueError: It is none of these.
    """
    folder = Path(name)
    settle(folder)
    if name in shipped.NAMES and not folder.exists():
        folder = shipped.FOLDER / name
    if folder.is_dir():
        return in_folder(folder, "save_pretrained")
    if folder.exists() or name.count("/") != 1 or name.startswith((".", "/")):
        raise ValueError(
            f"{folder}: is no folder; name one that save_pretrained has written, "
            f"{' or '.join(shipped.NAMES)}, which is installed, or a repository of the "
            "Hugging Face hub (owner/name)"
        )
    return _from_hub(name, CONFIG, hub), _from_hub(name, WEIGHTS, hub)


def _from_hub(repo: str, name: str, hub: dict[str, Any]) -> Path:
    try:
        with quiet("huggingface_hub"):  # of retries; what comes of them is said below
            return Path(hf_hub_download(repo, name, **hub))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ValueError(
            f"{repo}: is neither a folder here nor a model that the Hugging Face hub gives "
            f"({type(error).__name__})"
        ) from error
