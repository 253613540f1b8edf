"""`ccexecctl version`: the versions of ccexecctl and of the daemon."""

import platform
from argparse import ArgumentParser, Namespace
from typing import Any

from ccexecctl import render, versions
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit, NotPermittedError, NotRunningError
from ccexecd import __version__

DESCRIPTION = "Show the version of ccexecctl and, when it runs, of the daemon; a warning says that they differ."

EXAMPLES = """\
example:
  ccexecctl version --json
"""


def configure(_: ArgumentParser) -> None:
    """Add nothing: the verb has no options of its own."""


def run(arguments: Namespace) -> int:
    """Print one line for ccexecctl, and one for the daemon."""
    daemon = _daemon_version(arguments)
    lines = [f"ccexecctl {__version__}"]
    if daemon is None:
        lines.append("ccexecd not running")
    else:
        lines.append(f"ccexecd {daemon['version']} (protocol {daemon['protocol']})")
        versions.compare(daemon["version"])
    ours = {"version": __version__, "python": platform.python_version()}
    render.show({"ccexecctl": ours, "ccexecd": daemon}, lines, as_json=arguments.json)
    return Exit.DONE


def _daemon_version(arguments: Namespace) -> dict[str, Any] | None:
    try:
        with connect_to(arguments) as client:
            version: dict[str, Any] = client.call("version")
            return version
    except (NotRunningError, NotPermittedError):
        return None
