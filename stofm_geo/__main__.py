"""The command line: ``stofm-geo`` and ``python -m stofm_geo``."""

from __future__ import annotations

import signal

from stofm_geo._signals import SIGNALS, exit_by_signal, raise_on_signal


def main() -> None:
    """Run the command line; a signal ends it with its own exit code."""
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
