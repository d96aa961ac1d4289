"""``python -m stofm_geo``: the same as ``stofm-geo``."""

from stofm_geo.cli import app

app(prog_name="stofm-geo")
