"""`ccexecctl reload`: make the daemon read its configuration again."""

from argparse import ArgumentParser, Namespace

from ccexecctl import render
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit

DESCRIPTION = """\
Make the daemon read its configuration again and reopen its log. The whole configuration is checked first: when any of
it is wrong, all problems are listed, the old one stays in force, and the exit code is 1."""

EXAMPLES = """\
examples:
  ccexecctl reload
  ccexecctl config validate && ccexecctl reload
"""


def configure(_: ArgumentParser) -> None:
    """Add nothing: the verb has no options of its own."""


def run(arguments: Namespace) -> int:
    """Print what has changed, and what only a restart changes."""
    with connect_to(arguments) as client:
        reloaded = client.call("reload")
    changed, later = reloaded["changed"], reloaded["needs_restart"]
    lines = [f"reloaded; changed: {', '.join(changed)}" if changed else "reloaded; nothing has changed"]
    if later:
        lines.append(f"only after a restart: {', '.join(later)}")
    render.show(reloaded, lines, as_json=arguments.json)
    return Exit.DONE
