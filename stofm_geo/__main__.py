"""``stofm-geo`` and ``python -m stofm_geo``: the command line, from its first import to its end."""

from __future__ import annotations

import signal

from stofm_geo._signals import SIGNALS, exit_by_signal, raise_on_signal


def main() -> None:
    """Run the command that was typed; a signal ends it with its own code, whenever it comes."""
    try:
        with raise_on_signal(), exit_by_signal():
            from stofm_geo.cli import app

            app(prog_name="stofm-geo")
    finally:
        # All is written. While the interpreter ends, an exception would be a traceback.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    main()
