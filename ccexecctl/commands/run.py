"""`ccexecctl run`: run a command under the daemon as if it ran here."""

from argparse import REMAINDER, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ccexecctl import render, terminal
from ccexecctl.arguments import add_run_timeout, pair, seconds
from ccexecctl.environment import is_text, own_environment
from ccexecctl.errors import Exit, UsageError
from ccexecctl.foreground import Foreground, execute
from ccexecctl.launch import connect_or_launch
from ccexecctl.output import Collected, Passed
from ccexecctl.standard_input import StandardInput

DESCRIPTION = """\
Run a command under ccexecd as if it ran here: in this directory, with this environment, its output passed on the moment
it is written, its exit code ours (128+N after signal N; 127 not found, 126 not executable). A daemon is started when
none is running. Ctrl-C or TERM cancels the command, the second time it is killed. Its standard input is empty, unless
-i passes ours on; its umask and resource limits (ulimit) are the daemon's. With -t it has a terminal, which ours shows:
every key is the command's, Ctrl-C and Ctrl-Z too."""

EXAMPLES = """\
examples:
  ccexecctl run -- sh -c 'echo hello; sleep 1; echo bye'
  ccexecctl run --shell 'make && make test' --timeout 600
  ccexecctl run --detach --label job=nightly -- ./nightly.sh      prints the id; see: ccexecctl logs
  ccexecctl run --json -- git status | jq .exit_code
  ccexecctl run -t -- bash
  ccexecctl run --limit memory_bytes=2G --limit cpu_seconds=600 -- make -j8
  ccexecctl run --key nightly-2026-01-31 -- ./nightly.sh          once, however often this is said
  tar c src | ccexecctl run -i -- ssh elsewhere tar x
  ccexecctl run --detach -t -- top                                and later: ccexecctl attach

The global --timeout is given before the verb here; after it, --timeout is the command's own.
"""


LIMITS = ("memory_bytes", "cpu_seconds", "processes", "open_files", "file_bytes", "nice")
"""Names of limits, as in docs/protocol.md."""

LIMIT_HELP = f"bound what it may use: {', '.join(LIMITS)}; sizes as 512M or 2G"

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def configure(parser: ArgumentParser) -> None:
    """Add the command, and how to run it. Here `--timeout` is about the command; the global one precedes the verb."""
    parser.add_argument("-i", "--stdin", action="store_true", help="pass our standard input on to it")
    parser.add_argument("-t", "--tty", action="store_true", help="on a terminal, which ours shows")
    parser.add_argument("--shell", metavar="COMMAND", help="run COMMAND by the shell, instead of CMD ARGS")
    parser.add_argument("--detach", action="store_true", help="print the id and return; it outlives this terminal")
    add_run_timeout(parser)
    parser.add_argument(
        "--estimate", action="store_true", help="end it by a time-out that its past runs suggest, if any"
    )
    parser.add_argument("--grace", type=seconds, metavar="TIME", help="between TERM and KILL when it is ended")
    parser.add_argument("--cwd", metavar="DIR", help="run it in DIR (default: this directory)")
    parser.add_argument("--env", action="append", default=[], type=pair, metavar="K=V", help="set a variable")
    parser.add_argument("--no-env", action="store_true", help="with the daemon's environment instead of this one")
    parser.add_argument("--label", action="append", default=[], type=pair, metavar="K=V", help="mark it")
    parser.add_argument("--limit", action="append", default=[], type=limit, metavar="K=V", help=LIMIT_HELP)
    parser.add_argument("--lane", metavar="NAME", help="count it against the limit of a lane of the configuration")
    parser.add_argument(
        "--priority", type=int, metavar="N", help="begin before what waits with a lower one (default: 0)"
    )
    parser.add_argument("--key", metavar="KEY", help="run it once: asked again with this key, show that execution")
    parser.add_argument("--stdbuf", action="store_true", help="have C programs in it write line by line")
    choices = ("kill", "detach")
    parser.add_argument("--leftovers", choices=choices, metavar="HOW", help="kill or detach processes that outlive it")
    parser.usage = f"{parser.prog} [OPTIONS] -- CMD ARGS\n       {parser.prog} [OPTIONS] --shell COMMAND"
    parser.add_argument("argv", nargs=REMAINDER, metavar="-- CMD ARGS", help="the command, run without a shell")


def limit(text: str) -> tuple[str, float]:
    """Argparse type of LIMIT=NUMBER, where a number may end with K, M, G or T: powers of 1024."""
    name, value = pair(text)
    if name not in LIMITS:
        raise ArgumentTypeError(f"there is no limit {name!r}, only {', '.join(LIMITS)}")
    number = value.upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in UNITS else ""
    try:
        amount = float(number.removesuffix(unit)) * UNITS[unit]
        return name, amount if name == "cpu_seconds" else int(amount)
    except (ValueError, OverflowError):  # the latter: infinity
        raise ArgumentTypeError(f"{value!r} is not a number such as 100, 1.5 or 512M") from None


def run(arguments: Namespace) -> int:
    """Run the command. Returns the command's own exit code."""
    if arguments.tty:
        _require_terminal(arguments)
    request = _request(arguments)
    with connect_or_launch(arguments) as client:
        if arguments.detach:
            started = execute(client, request)
            render.show(started, [started["execution_id"]], as_json=arguments.json)
            return Exit.DONE
        source = StandardInput(client, ends=not arguments.tty) if arguments.stdin or arguments.tty else None
        if not arguments.json:
            return Foreground(client, Passed(), source, on_terminal=arguments.tty).run(request)[1]
        output = Collected()
        result, code = Foreground(client, output, source).run(request)
        render.show({**result, **output.texts()}, [], as_json=True)
        return code


def _require_terminal(arguments: Namespace) -> None:
    """Make sure that `-t` has our terminal to show its own; with `--detach` it needs none before somebody attaches."""
    if arguments.detach:
        return
    if arguments.json:
        raise UsageError("what a terminal shows is not JSON", "leave out -t or --json")
    if not terminal.is_terminal():
        raise UsageError("-t needs a terminal as standard input", "leave it out, or pass data on with -i")


def _request(arguments: Namespace) -> dict[str, Any]:
    argv = arguments.argv[arguments.argv[:1] == ["--"] :]
    if bool(argv) == (arguments.shell is not None):
        raise UsageError("give a command, either CMD ARGS or --shell COMMAND", "ccexecctl run -- sh -c 'echo hello'")
    if not (argv[0] if arguments.shell is None else arguments.shell.strip()):
        raise UsageError("the command is empty", "ccexecctl run -- sh -c 'echo hello'")
    _require_text("the command", [arguments.shell or "", *argv])
    cwd = str(_directory(arguments.cwd))
    _require_text("the directory", [cwd])
    return {
        "argv": argv or None,
        "command": arguments.shell,
        "cwd": cwd,
        "env": ({} if arguments.no_env else own_environment()) | dict(arguments.env),
        "timeout": arguments.run_timeout,
        "estimate_timeout": arguments.estimate or None,
        "grace": arguments.grace,
        "labels": dict(arguments.label),
        "limits": dict(arguments.limit) or None,
        "leftovers": arguments.leftovers,
        "lane": arguments.lane,
        "priority": arguments.priority,
        "idempotency_key": arguments.key,
        "stdbuf": arguments.stdbuf or None,
        "stdin": "open" if arguments.stdin else None,
        "pty": terminal.size() if arguments.tty else None,
        "framing": "raw",
        "policy": "drop_oldest" if arguments.detach else "block",  # here, a slow reader slows it down, as a pipe does
        "on_disconnect": "detach" if arguments.detach else "cancel",
    }


def _directory(chosen: str | None) -> Path:
    try:
        return Path(chosen or ".").absolute()
    except FileNotFoundError as error:
        raise UsageError("this directory does not exist any more", "choose one with --cwd DIR") from error


def _require_text(what: str, words: Iterable[str]) -> None:
    for word in words:
        if not is_text(word):
            raise UsageError(f"{what} is not UTF-8: {word!r}", "run it by way of a script, or a name that is")
