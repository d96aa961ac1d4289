"""Where a saved model lies: a folder, one that is installed with the library, or the hub."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from stofm_geo._logging import suppress_logger
from stofm_geo._replace import recover_folder
from stofm_geo.models import shipped
from stofm_geo.networks.files import CONFIG, WEIGHTS

_PATIENCE = 3.0  # seconds for a connection


def in_folder(folder: Path, written_by: str) -> tuple[Path, Path]:
    """Return the paths of configuration and weights in a folder.

    Args:
        folder: Where they should be.
        written_by: What writes such folders, for the message.

    Raises:
        ValueError: One is not there.
    """
    recover_folder(folder)
    files = folder / CONFIG, folder / WEIGHTS
    if missing := [file.name for file in files if not file.is_file()]:
        raise ValueError(
            f"{folder}: has no {' and no '.join(missing)}; name a folder that {written_by} has "
            "written"
        )
    return files


def locate(name: str, hub: dict[str, Any]) -> tuple[Path, Path]:
    """Return the paths of a model's configuration and weights, local or from the hub.

    Args:
        name: A folder, a name of ``shipped.NAMES``, or a repository of the hub (owner/name).
        hub: Of ``huggingface_hub.hf_hub_download``.

    Raises:
        ValueError: It is none of these.
    """
    folder = Path(name)
    recover_folder(folder)
    if name in shipped.NAMES and not folder.exists():
        folder = shipped.FOLDER / name
    if folder.is_dir():
        return in_folder(folder, "save_pretrained")
    # A folder's folder is there: so it is a name that is mistyped, and none of the hub.
    near = folder.parent != Path() and folder.parent.is_dir()
    if folder.exists() or near or name.count("/") != 1 or name.startswith((".", "/")):
        raise ValueError(
            f"{folder}: is no folder; name one that save_pretrained has written, "
            f"{' or '.join(shipped.NAMES)}, which is installed, or a repository of the "
            "Hugging Face hub (owner/name)"
        )
    online = not hub.get("local_files_only") and _reachable()
    if not online:  # rather than try it again and again
        hub = {**hub, "local_files_only": True}
    return _from_hub(name, CONFIG, hub, online), _from_hub(name, WEIGHTS, hub, online)


def _reachable() -> bool:
    """Return whether the hub, or the proxy to it, accepts connections."""
    if constants.HF_HUB_OFFLINE:
        return False
    address = urlsplit(getproxies().get("https") or constants.ENDPOINT)
    found = []

    def connect() -> None:  # in a thread, as names are looked up without a limit
        with suppress(OSError, ValueError):
            port = address.port or (80 if address.scheme == "http" else 443)
            socket.create_connection((address.hostname, port), timeout=_PATIENCE).close()
            found.append(True)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return bool(found)


def _from_hub(repo: str, name: str, hub: dict[str, Any], online: bool) -> Path:
    try:
        with suppress_logger("huggingface_hub"):  # of retries; what comes of them is said below
            return Path(hf_hub_download(repo, name, **hub))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        if not online:
            reason = (
                "and not in the cache of the Hugging Face hub, which cannot be reached: there is "
                "no network, or it is not to be used (local_files_only, HF_HUB_OFFLINE)"
            )
        elif isinstance(error, EntryNotFoundError) and not isinstance(
            error, LocalEntryNotFoundError
        ):
            reason = f"and the Hugging Face hub's has no {name}: it is no model of stofm_geo"
        elif isinstance(error, RepositoryNotFoundError | HFValidationError):
            reason = "nor a model that the Hugging Face hub has, or shows to you"
        else:
            reason = f"and the Hugging Face hub does not give it ({type(error).__name__})"
        raise ValueError(f"{repo}: is no folder here, {reason}") from error
