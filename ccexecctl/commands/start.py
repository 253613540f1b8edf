"""`ccexecctl start`: start the daemon of this user, and return when it works."""

from argparse import REMAINDER, ArgumentParser, Namespace
from pathlib import Path

from ccexecctl import render
from ccexecctl.errors import Exit
from ccexecctl.launch import daemon_flags, launch
from ccexecctl.place import locate

DESCRIPTION = """\
Start ccexecd in the background. Returns 0 when it answers on its control socket and on its port, or when it was
running already; otherwise prints the reason and returns 1. Under systemd use: systemctl start ccexecd"""

EXAMPLES = """\
examples:
  ccexecctl start
  ccexecctl start --port 8100 --state-dir /tmp/second
  ccexecctl start --config ./ccexecd.toml -- --max-sessions 5 --log-level debug
"""


def configure(parser: ArgumentParser) -> None:
    """Add the options that pass through to ccexecd."""
    parser.usage = f"{parser.prog} [OPTIONS] [-- FLAGS]"
    parser.add_argument("--host", metavar="ADDRESS", help="listen on this address")
    parser.add_argument("--port", type=int, metavar="N", help="listen on this port; 0 takes a free one")
    parser.add_argument("--config", type=Path, metavar="FILE", help="read this configuration file")
    parser.add_argument("flags", nargs=REMAINDER, metavar="-- FLAGS", help="any other flags of ccexecd")


def run(arguments: Namespace) -> int:
    """Start it, and say what became of it."""
    place = locate(arguments).own()
    launched = launch(place, [*daemon_flags(arguments, place), *_flags(arguments)], arguments.timeout)
    status = launched.status
    what = "started" if launched.is_new else "already running"
    render.show(
        {"result": what.replace(" ", "_"), **status},
        [f"ccexecd {what} (pid {status['pid']}), listening on {status['address']}"],
        as_json=arguments.json,
    )
    return Exit.DONE


def _flags(arguments: Namespace) -> list[str]:
    flags: list[str] = []
    if arguments.host is not None:
        flags += ["--host", arguments.host]
    if arguments.port is not None:
        flags += ["--port", str(arguments.port)]
    if arguments.config is not None:
        flags += ["--config", str(arguments.config.absolute())]
    flags += arguments.flags[arguments.flags[:1] == ["--"] :]
    return flags
