"""Calls one Python entry point as a hook, in a process of its own: `python -P entry.py NAME`.

Owns passing the document from standard input to the function, and writing what that returns to standard output. What
the function prints goes to standard error, so that it cannot be taken for its answer. Standard library only: it is
started for every call.
"""

import json
import os
import sys
from importlib import metadata

GROUP = "ccexecd.hooks"
"""The entry point group in which packages announce their hooks."""


def main() -> int:
    """Call the entry point named by the first argument. Returns the exit code."""
    answers = os.dup(1)
    os.dup2(2, 1)
    (wanted,) = metadata.entry_points(group=GROUP, name=sys.argv[1])
    answer = wanted.load()(json.load(sys.stdin))
    sys.stdout.flush()
    if answer is not None:
        with os.fdopen(answers, "w") as output:
            json.dump(answer, output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
