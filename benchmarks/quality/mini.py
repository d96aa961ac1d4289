"""The corpus of ``stofm-geo-mini``: every slice of a folder but those that it is measured on.

``python -m benchmarks.quality.mini --data DIR -o CORPUS`` builds it, and writes ``CORPUS.yaml``:
the settings of ``mini.yaml``, the corpus, and the slices that choose the step to stop at.
``stofm-geo pretrain --config CORPUS.yaml --folder RUN`` trains on it, and
``python -m benchmarks.quality.zero_shot --data DIR --model RUN/model`` measures the outcome.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import yaml

from stofm_geo.data.corpus import build, find_sources, read_index
from stofm_geo.data.corpus.sources import slices_of

HELD_OUT = {
    "dlpfc_151674": None,  # all slices of the file
    "merfish_hypothalamus_moffitt": "animal7",  # those whose names begin so
    "osmfish_sscortex": None,
    "starmap_visp_1020": None,
}
# Of the corpus, held out to choose by: one of each study that has several, and all of one study.
VALIDATION = (
    *("slide1_fov6", "E1", "animal1_bregma+0.26", "mouse1_slice200", "embryo2_z5"),
    "XeniumR1",
)
SETTINGS = Path(__file__).with_suffix(".yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="Folder of .h5ad files.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    sources = []
    for source in find_sources([args.data], slice="slice_id"):
        for which in slices_of(source):
            stem = Path(source.path).stem
            if stem in HELD_OUT and str(which.name).startswith(HELD_OUT[stem] or ""):
                continue
            sources.append(replace(source, slice=which.name))
    settings = yaml.safe_load(SETTINGS.read_text())
    molecules = settings["model"]["config"]["objectives"] == "molecules"
    for label, reason in build(sources, args.output, molecules=molecules, on_progress=print):
        print(f"Skipped: {label}: {reason}")
    entries = read_index(args.output)["slices"]
    held_out = [entry["folder"] for entry in entries if entry["slice"] in VALIDATION]
    settings["data"] |= {"folder": str(args.output), "held_out": held_out}
    Path(f"{args.output}.yaml").write_text(yaml.safe_dump(settings))


if __name__ == "__main__":
    main()
