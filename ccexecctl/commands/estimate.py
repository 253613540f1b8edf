"""`ccexecctl estimate`: estimate how long a command may take, by past runs."""

from argparse import REMAINDER, ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ccexecctl import render
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit, UsageError

DESCRIPTION = """\
Estimate how long a command may take in this directory, by your own past runs of it and of commands like it. Nothing is
run. The last line says whether `run --estimate` would end a run by it: only runs of the same command, or of its form in
this directory, and enough of them, are reason to."""

EXAMPLES = """\
examples:
  ccexecctl estimate -- make -j8 test
  ccexecctl estimate --shell 'make && make test'
  ccexecctl estimate --json -- claude -p "What is 2+2?" | jq .timeout
"""


def configure(parser: ArgumentParser) -> None:
    """Add the command, and where it is to run."""
    parser.add_argument("--shell", metavar="COMMAND", help="a COMMAND for the shell, instead of CMD ARGS")
    parser.add_argument("--cwd", metavar="DIR", help="as if run in DIR (default: this directory)")
    parser.usage = f"{parser.prog} [OPTIONS] -- CMD ARGS\n       {parser.prog} [OPTIONS] --shell COMMAND"
    parser.add_argument("argv", nargs=REMAINDER, metavar="-- CMD ARGS", help="the command")


def run(arguments: Namespace) -> int:
    """Ask the daemon, and print its estimate."""
    argv = arguments.argv[arguments.argv[:1] == ["--"] :]
    if bool(argv) == (arguments.shell is not None):
        raise UsageError("give a command, either CMD ARGS or --shell COMMAND", "ccexecctl estimate -- make test")
    request = {"argv": argv or None, "command": arguments.shell, "cwd": _directory(arguments.cwd)}
    with connect_to(arguments) as client:
        told = client.call("estimate", request)
    render.show(told, _lines(told), as_json=arguments.json)
    return Exit.DONE


def _directory(chosen: str | None) -> str:
    try:
        return str(Path(chosen or ".").absolute())
    except FileNotFoundError as error:
        raise UsageError("this directory does not exist any more", "choose one with --cwd DIR") from error


def _lines(told: dict[str, Any]) -> list[str]:
    runs = f"{told['samples']} runs" + (f", {told['censored']} more not to their end" if told["censored"] else "")
    usual = f"half within {render.duration(told['median'])}, nearly all within {render.duration(told['quantile'])}"
    rows = [
        ("timeout", render.duration(told["timeout"])),
        ("stall timeout", render.duration(told["stall_timeout"])),
        ("based on", f"{told['based_on']}: {runs}" + (f"; {usual}" if told["samples"] else "")),
        ("confidence", f"{round(100 * told['confidence'])} %"),
        ("load", f"{told['load']:.0f} %" + (f": times {told['multiplier']:g}" if told["multiplier"] != 1 else "")),
        ("command", f"{told['form']} ({told['category']})"),
        ("acts", "yes" if told["acts"] else f"no: {told['reason']}"),
    ]
    return [f"{name:<15}{render.printable(text)}" for name, text in rows]
