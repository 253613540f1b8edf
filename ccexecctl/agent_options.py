"""The command line options that `agent`, `tasks run` and `prompts run` share: how an agent is to do a task.

Owns these options, and turning them into those of the Python API. Must not import the API: a verb does that when it
runs.
"""

import json
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ccexecctl.arguments import add_run_timeout, pair
from ccexecctl.environment import own_environment
from ccexecctl.errors import UsageError


def add_options(parser: ArgumentParser) -> None:
    """Add the options. Here `--timeout` is about the agent; the global one precedes the verb."""
    parser.add_argument("--agent", metavar="NAME", help="claude (the default), codex or gemini")
    parser.add_argument("--program", metavar="PATH", help="the agent's program, if it is not that name on the PATH")
    parser.add_argument("--model", metavar="NAME", help="which model")
    parser.add_argument("--cwd", metavar="DIR", help="where it works (default: this directory)")
    add_run_timeout(parser)
    parser.add_argument("--tools", metavar="A,B", help="tools that it may use unasked")
    parser.add_argument("--permission-mode", metavar="MODE", help="what else it may do: acceptEdits, plan, ...")
    parser.add_argument("--max-turns", type=int, metavar="N", help="how often it may ask its model")
    parser.add_argument("--env", action="append", default=[], type=pair, metavar="K=V", help="set a variable")
    parser.add_argument("--no-env", action="store_true", help="with the daemon's environment instead of this one")
    parser.add_argument("--label", action="append", default=[], type=pair, metavar="K=V", help="mark its executions")


def given_options(arguments: Namespace) -> dict[str, Any]:
    """Return the options of the Python API that were given; the others are left out."""
    chosen = {
        "agent": arguments.agent,
        "program": _program(arguments.program),
        "model": arguments.model,
        "cwd": arguments.cwd,
        "timeout": arguments.run_timeout or None,
        "allowed_tools": [each for each in (arguments.tools or "").split(",") if each],
        "permission_mode": arguments.permission_mode,
        "max_turns": arguments.max_turns,
        "env": ({} if arguments.no_env else own_environment()) | dict(arguments.env),
        "labels": dict(arguments.label),
    }
    return {name: value for name, value in chosen.items() if value not in (None, [], {})}


def _program(path: str | None) -> str | None:
    """Make a program's path absolute, since the agent works in another directory; a mere name stays."""
    return os.path.abspath(path) if path is not None and os.sep in path else path  # noqa: PTH100  # links stay


def read_schema(path: str | None) -> dict[str, Any] | None:
    """Read a JSON Schema from a file; None without one.

    Raises:
        UsageError: it cannot be read, or is not JSON.
    """
    if path is None:
        return None
    try:
        schema = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {(error.strerror or '').lower()}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise UsageError(f"{path} is no JSON Schema: it is not an object")
    return schema
