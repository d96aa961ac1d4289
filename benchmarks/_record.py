"""What every result carries: when, where, with what."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from stofm_geo._files import atomic_path

PACKAGES = (
    "torch",
    "torch-geometric",
    "e3nn",
    "anndata",
    "igraph",
    "numba",
    "numpy",
    "scipy",
    "scikit-learn",
)


def environment() -> dict[str, Any]:
    """Date, commit, machine and versions."""
    git = ("git", "describe", "--always", "--dirty", "--abbrev=12")
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit or "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def write(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
