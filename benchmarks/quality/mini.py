"""The corpus of ``stofm-geo-mini``: every slice of a folder but those that it is measured on.

``python -m benchmarks.quality.mini --data DIR -o CORPUS`` builds it;
``stofm-geo pretrain --config benchmarks/quality/mini.yaml --data.folder CORPUS --folder RUN``
trains on it, and
``python -m benchmarks.quality.zero_shot --data DIR --model RUN/model`` measures the outcome.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from stofm_geo.data.corpus import build, find_sources
from stofm_geo.data.corpus.sources import slices_of

HELD_OUT = {
    "dlpfc_151674": None,  # all slices of the file
    "merfish_hypothalamus_moffitt": "animal7",  # those whose names begin so
    "osmfish_sscortex": None,
    "starmap_visp_1020": None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="Folder of .h5ad files.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--molecules", action="store_true", help="Hold out molecules.")
    args = parser.parse_args()
    sources = []
    for source in find_sources([args.data], slice="slice_id"):
        for which in slices_of(source):
            stem = Path(source.path).stem
            if stem in HELD_OUT and str(which.name).startswith(HELD_OUT[stem] or ""):
                continue
            sources.append(replace(source, slice=which.name))
    for label, reason in build(sources, args.output, molecules=args.molecules, on_progress=print):
        print(f"Skipped: {label}: {reason}")


if __name__ == "__main__":
    main()
