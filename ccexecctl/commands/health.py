"""`ccexecctl health`: tell whether the daemon is fit for work."""

from argparse import ArgumentParser, Namespace

from ccexecctl import render
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit

DESCRIPTION = """\
Ask the daemon whether it is fit for work. Returns 0 when it is healthy, 1 when it is draining or degraded, 3 when it
is not running."""

EXAMPLES = """\
example:
  ccexecctl health || systemctl restart ccexecd
"""


def configure(_: ArgumentParser) -> None:
    """Add nothing: the verb has no options of its own."""


def run(arguments: Namespace) -> int:
    """Print the state of the daemon in one word."""
    with connect_to(arguments) as client:
        health = client.call("health")
    render.show(health, [health["status"]], as_json=arguments.json)
    return Exit.DONE if health["status"] == "healthy" else Exit.FAILED
