#!/usr/bin/env python3
"""A pre_execute hook: refuse a command whose dependencies are not installed (`require_programs.py PROGRAM ...`).

Looks for each program in the PATH that the command would get. It needs `pass_environment = ["PATH"]`; list it behind
hooks that change PATH.
"""

import json
import shutil
import sys


def main() -> None:
    """Answer with what is missing, if anything is."""
    told = json.load(sys.stdin)
    path = told["environment"].get("PATH", "/usr/bin:/bin")
    missing = [program for program in sys.argv[1:] if shutil.which(program, path=path) is None]
    if missing:
        json.dump({"decision": "refuse", "reason": f"not installed: {', '.join(missing)}"}, sys.stdout)


if __name__ == "__main__":
    main()
