#!/usr/bin/env python3
"""A pre_execute hook: run commands inside a Python virtual environment (`activate_venv.py VENV`).

Does what `source VENV/bin/activate` does to a shell. It needs `pass_environment = ["PATH"]`. Take the environment from
the hook's own command line, as here, and never from what a client sends: whoever chooses it chooses the programs.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    """Answer with the environment, or refuse where there is none."""
    told = json.load(sys.stdin)
    venv = Path(sys.argv[1])
    if not (venv / "bin" / "python").exists():
        answer = {"decision": "refuse", "reason": f"there is no virtual environment at {venv}"}
    else:
        path = told["environment"].get("PATH", "/usr/bin:/bin")
        variables = {"VIRTUAL_ENV": str(venv), "PATH": f"{venv / 'bin'}:{path}"}
        answer = {"environment": variables, "unset": ["PYTHONHOME"]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
