"""`ccexecctl start`: start the daemon of this user, and return when it works."""

from argparse import REMAINDER, ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ccexecctl import render
from ccexecctl.arguments import port
from ccexecctl.errors import Exit, UsageError
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
    parser.add_argument("--port", type=port, metavar="N", help="listen on this port; 0 takes a free one")
    parser.add_argument("--config", type=Path, metavar="FILE", help="read this configuration file")
    parser.add_argument("flags", nargs=REMAINDER, metavar="-- FLAGS", help="any other flags of ccexecd")


def run(arguments: Namespace) -> int:
    """Start the daemon, and print whether it was started or was running already."""
    place = locate(arguments).own()
    flags = _flags(arguments)
    launched = launch(place, [*daemon_flags(arguments, place), *flags], arguments.timeout)
    status = launched.status
    what = "started" if launched.is_new else "already running"
    unused = [] if launched.is_new else _unused(flags, status)
    document = {"result": what.replace(" ", "_"), **status}
    render.show(
        document if launched.is_new else {**document, "unused_flags": unused},
        [f"ccexecd {what} (pid {status['pid']}), listening on {status['address']}"],
        as_json=arguments.json,
    )
    if unused:
        render.remark(f"it keeps the settings that it was started with; not used: {' '.join(unused)}")
    if not _is_found(status, arguments):
        render.remark(f"it is not in the usual place; name it: ccexecctl --socket {status['control_socket']} status")
    return Exit.DONE


def _unused(flags: list[str], status: dict[str, Any]) -> list[str]:
    """Return the flags that had no effect since the daemon was running; none if they name only its actual address."""
    host, _, port = status["address"].rpartition(":")
    as_it_is = [["--port", port], ["--host", host], ["--host", host, "--port", port]]
    return [] if flags in as_it_is else flags


def _is_found(status: dict[str, Any], arguments: Namespace) -> bool:
    """Whether other verbs, which have no `--config`, find this daemon: in a usual place, or by its link there."""
    place = locate(Namespace(**{**vars(arguments), "config": None}))
    return Path(status["control_socket"]).resolve() in [each.resolve() for each in place.sockets]


def _flags(arguments: Namespace) -> list[str]:
    flags: list[str] = []
    if arguments.host is not None:
        flags += ["--host", arguments.host]
    if arguments.port is not None:
        flags += ["--port", str(arguments.port)]
    if arguments.config is not None:
        flags += ["--config", str(arguments.config.absolute())]
    others: list[str] = arguments.flags[arguments.flags[:1] == ["--"] :]
    if any(word.partition("=")[0] == "--state-dir" for word in others):
        raise UsageError(
            "--state-dir stands before the --: ccexecctl has to know it, too", "ccexecctl --state-dir DIR start"
        )
    return flags + others
