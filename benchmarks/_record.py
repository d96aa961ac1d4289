"""What every result carries, and how it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stofm_geo._files import atomic_path
from stofm_geo.benchmark.records import environment

__all__ = ["environment", "write"]


def write(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
