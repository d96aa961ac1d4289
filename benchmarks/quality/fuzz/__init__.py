"""Damaged inputs, each read in a process of its own, and what came of it.

``python -m benchmarks.quality.fuzz -o benchmarks/results/fuzz.json``: bytes of all files that users
hand in are flipped, files are cut short or removed, and what they hold is replaced by values of
other types and ranges. Each trial ends in one class:

- *clear*: refused by an error of the kinds that commands print in a line, and the line has the
  path of what was damaged, or, where that is valid by itself (see *other input*), the name of the
  slice that it does not fit;
- *harmless*: read, to the same numbers; those that came with a warning are counted once more;
- *other input*: read, to the numbers of what the file holds now. Formats of others (``.h5ad``,
  zarr, CSV, YAML, published checkpoints) have no checksum over all of it, so damage can leave a
  valid file of other content. A reader of the format that is not ours, plain AnnData, ``yaml``,
  ``csv`` or PyTorch, has to find other content, too, and content that we admit. Our own formats
  (models, annotators, vocabularies, corpora) have no such excuse, but where a value was replaced
  and the checksums removed, as by a user who edits them;
- *silent*: read, to other numbers, and none of that;
- *traceback*: an error of another kind, or one that does not name what was damaged, or a crash;
- *hang*: more than 10 s of computing, or 60 s;
- *memory*: arrays of more than 2 GB above what the process had.

There must be none of the last four. A trial depends on the seed, its input and its number alone:
``--only csr.h5ad:17`` does one again.
"""
