"""``stofm-geo doctor``: versions, threads, devices and kernel backends, for bug reports."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from stofm_geo._version import __version__
from stofm_geo.cli.output import cli_errors, echo, record

_PACKAGES = (
    "torch",
    "torch-geometric",
    "lightning",
    "anndata",
    "numba",
    "numpy",
    "scipy",
    "scikit-learn",
)


@cli_errors
def doctor() -> None:
    """Print versions, threads, devices, and the kernel backends that work here."""
    found = report()
    record(**found)
    for title, rows in found.items():
        echo(title)
        for name, value in rows.items():
            echo(f"  {name:<22}{value}")


def report() -> dict[str, dict[str, str]]:
    """Return title -> name -> value; the value of a failing backend is the reason."""
    import torch

    from stofm_geo.ops import available_backends
    from stofm_geo.transforms import gpu_search_unavailable

    backends = {
        name: "works" if reason is None else f"no: {reason}"
        for name, reason in available_backends().items()
    }
    search = gpu_search_unavailable()
    return {
        "Versions": {
            "stofm-geo": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _PACKAGES},
        },
        "Threads": {
            "processors": str(os.cpu_count()),
            "torch": str(torch.get_num_threads()),
        },
        "Devices": {"cpu": platform.processor() or platform.machine(), **_accelerators()},
        "Edge attention": backends,
        "Neighbour search": {
            "scipy (CPU)": "works",
            "torch-cluster (GPU)": "works" if search is None else f"no: {search}",
        },
    }


def _accelerators() -> dict[str, str]:
    import torch

    if torch.cuda.is_available():
        return {
            f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
        }
    if torch.backends.mps.is_available():
        return {"mps": "Apple GPU"}
    reason = "this build of torch is without CUDA" if not torch.version.cuda else "no GPU is found"
    return {"cuda": f"no: {reason}"}
