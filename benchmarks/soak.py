"""Many executions through one daemon, and afterwards: no zombie, no descriptor more, no memory that keeps growing.

Owns the command line. Not for figures, but for what only numbers of executions bring to light.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from prepare import MissingError, allow_descriptors, find_ccexecd, need_client


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it.

    Returns:
        0, or 1 when something was wrong or has grown, or 2 when something is missing.
    """
    options = _parser().parse_args(arguments)
    try:
        need_client()
        program = find_ccexecd(options.ccexecd)
    except MissingError as error:
        print(f"{error}\nbenchmarks/README.md says how to set up", file=sys.stderr)
        return 2
    import uvloop  # noqa: PLC0415  # was just looked for
    from endurance import soak  # noqa: PLC0415  # likewise

    allow_descriptors()
    with tempfile.TemporaryDirectory(prefix="ccexecd-soak-", dir=options.work) as work:
        sizes = (options.executions, options.connections, options.growth)
        problems = uvloop.run(soak(program, Path(work), *sizes))
    print("\n".join(problems) or "sound: nothing leaked")
    return 1 if problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executions", type=int, default=10_000, metavar="N", help="default: 10000")
    parser.add_argument("--connections", type=int, default=16, metavar="N", help="at the same time (default: 16)")
    parser.add_argument(
        "--growth", type=float, default=8, metavar="MIB", help="memory that may come on top (default: 8)"
    )
    parser.add_argument("--ccexecd", type=Path, metavar="PATH", help="default: that of this Python's environment")
    parser.add_argument("--work", type=Path, metavar="DIR", help="disk for the daemon's state (default: /tmp)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
