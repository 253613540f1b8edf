"""The benchmark of ccexecd: measures it and its peers side by side, checks every byte, prints and saves a table.

Owns the command line. See README.md beside it.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from prepare import HERE, MissingError, allow_descriptors, need_client

ROWS = "M1,M2,M3,M4,M5,M6,M7,M8x10,M8x100,M8x500"
PEERS = "node,websockets"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it.

    Returns:
        0, or 1 when a measurement failed or an output was wrong, or 2 when something is missing.
    """
    options = _parser().parse_args(arguments)
    try:
        need_client()
        from series import Order, run  # noqa: PLC0415  # imports what was just looked for

        order = Order(options.rows, options.peers, options.repeat, options.small, options.patience, options.ccexecd)
        allow_descriptors()
        with tempfile.TemporaryDirectory(prefix="ccexecd-benchmark-", dir=options.work) as work:
            return run(order, Path(work), options.results)
    except MissingError as error:
        print(f"{error}\nbenchmarks/README.md says how to set up", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=_names, default=ROWS, metavar="M1,...", help=f"default: {ROWS}")
    parser.add_argument(
        "--peers", type=_names, default=PEERS, metavar="NAME,...", help=f"default: {PEERS}; '' for none"
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="measurements of each (default: 3)")
    parser.add_argument("--ccexecd", type=Path, metavar="PATH", help="default: that of this Python's environment")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR", help="where the table goes")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="disk for ccexecd's state (default: the system's /tmp)"
    )
    parser.add_argument(
        "--patience", type=float, default=30, metavar="S", help="seconds to wait for a quiet machine each time (30)"
    )
    parser.add_argument("--small", action="store_true", help="small sizes: tries the benchmark, measures nothing")
    return parser


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


if __name__ == "__main__":
    sys.exit(main())
