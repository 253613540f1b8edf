"""`ccexecctl prompts`: a ledger of prompts, their versions, and how many verified runs of each succeeded or failed."""

import base64
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccexecctl import agent_options, render
from ccexecctl.arguments import Parser, count
from ccexecctl.client import Client, connect_to
from ccexecctl.errors import CtlError, Exit, RefusedError, UsageError
from ccexecctl.foreground import execute
from ccexecd.protocol.errors import ErrorCode

if TYPE_CHECKING:
    from ccexecctl.api.command_line import Call

DESCRIPTION = """\
Keep prompts and lists of tasks by name and version: what was changed and why, and what came of it. Only runs whose
evidence is verified count (ccexecctl verify). A version may go into production with ten successes for each failure, in
ten runs at least, and leaves it when it falls below that."""

EXAMPLES = """\
examples:
  ccexecctl prompts record review --file review.md --why 'asks for a list of files first'
  ccexecctl prompts run review
  ccexecctl prompts show review
  ccexecctl prompts graduate review
  ccexecctl prompts history review
"""

LIST_DESCRIPTION = "List the prompts: the newest version of each, the one in production, and how they do."

SHOW_DESCRIPTION = """\
Print a version: that in production, or else the newest. Below it, every version with its successes, failures and the
interval in which its true share of successes is with 95 % confidence (Wilson), and whether it does better or worse than
the one shown, as far as that is no chance (Newcombe)."""

RECORD_DESCRIPTION = """\
Put a new version on record, or count an execution that ran one: whether it succeeded is taken from its receipt."""

RUN_DESCRIPTION = """\
Have an agent do what a prompt says, as `ccexecctl agent` has it do a task, or run a command with the prompt as its last
argument. Wait for its end, verify it, and count what came of it. Returns 0 when it has succeeded, 1 when it has
failed."""

RUN_EXAMPLES = """\
examples:
  ccexecctl prompts run review
  ccexecctl prompts run review --version 2 --model opus --tools Read
  ccexecctl prompts run review -- ./our-agent --prompt

The global --timeout is given before the verb here; after it, --timeout is the run's.
"""

GRADUATE_DESCRIPTION = "Take a version into production: the newest, unless another one is named."

HISTORY_DESCRIPTION = "Print what has happened to a prompt: versions, runs, graduations and demotions."

OF_AGENTS = ("agent", "program", "model", "allowed_tools", "permission_mode", "max_turns")
"""Options for agents only: they are refused where a command runs the prompt."""

STDIN_PIECE = 256 * 1024
"""Bytes of a prompt that one `write_stdin` request carries, as in the Python API."""

PATIENCE = 3600.0
"""Seconds that the daemon may take for a receipt, for which it digests all output, or a program to read its prompt."""

WAIT = 20.0
"""Seconds that one request waits for the end of a run. Each answer also shows that the daemon is alive."""


def configure(parser: Parser) -> None:
    """Add the six subcommands, each with its arguments."""
    metavar = "list|show|run|record|graduate|history"
    parser.usage = f"{parser.prog} [OPTIONS] {metavar} ..."
    deeds = parser.add_subparsers(dest="deed", required=True, metavar=metavar, prog=parser.prog)

    def add(name: str, does: Callable[[Namespace], int], description: str, example: str, summary: str) -> Parser:
        epilog = f"example:\n  ccexecctl prompts {example}\n"
        deed = deeds.add_parser(name, description=description, epilog=epilog, help=summary)
        deed.set_defaults(deed=does)
        if does is not _list:
            deed.usage = f"{deed.prog} [OPTIONS] NAME"
            deed.add_argument("name", metavar="NAME", help="of the prompt")
        return deed

    add("list", _list, LIST_DESCRIPTION, "list", "every prompt")
    show = add("show", _show, SHOW_DESCRIPTION, "show review --version 2", "one, and how its versions do")
    run_ = add("run", _run, RUN_DESCRIPTION, "", "run one, and count what came of it")
    record = add(
        "record", _record, RECORD_DESCRIPTION, "record review --file review.md --why shorter", "a version, or a run"
    )
    graduate = add("graduate", _graduate, GRADUATE_DESCRIPTION, "graduate review", "into production")
    add("history", _history, HISTORY_DESCRIPTION, "history review", "what has happened to one")
    for deed in (show, run_, graduate):
        deed.add_argument("--version", metavar="N", type=_version, help="which one")
    run_.usage = f"{run_.prog} [OPTIONS] NAME [-- CMD ARGS]"
    run_.epilog = RUN_EXAMPLES
    run_.add_command("what runs it, instead of an agent")
    agent_options.add_options(run_)
    record.add_argument("--file", metavar="FILE", help="the text; - is standard input")
    record.add_argument("--why", metavar="TEXT", help="what was changed, and why")
    record.add_argument("--tasks", action="store_true", help="it is a list of tasks")
    record.add_argument("--execution", metavar="ID", help="count this execution instead")


def run(arguments: Namespace) -> int:
    """Run the chosen subcommand."""
    try:
        code: int = arguments.deed(arguments)
    except RefusedError as refused:
        if refused.code == ErrorCode.INVALID_STATE:  # about a prompt here: the usual hint is about executions
            refused.hint = ""
        raise
    return code


def _version(text: str) -> int:
    number = count(text)
    if not number:
        raise ArgumentTypeError("versions begin with 1")
    return number


def _list(arguments: Namespace) -> int:
    with connect_to(arguments) as client:
        told = client.call("prompts_list")
    rows = [
        (
            each["name"],
            each["kind"],
            str(each["newest"]["version"]),
            _score(each["newest"]),
            str((each["production_version"] or {}).get("version", "-")),
            _score(each["production_version"]),
        )
        for each in told["prompts"]
    ]
    header = ("NAME", "KIND", "NEWEST", "SUCCESS:FAILURE", "PRODUCTION", "SUCCESS:FAILURE")
    render.show(told, render.table(header, rows), as_json=arguments.json)
    return Exit.DONE


def _show(arguments: Namespace) -> int:
    with connect_to(arguments) as client:
        told = client.call("prompts_show", {"name": arguments.name, "version": arguments.version})
    rows = [
        (
            str(each["version"]) + (" *" if each["production"] else ""),
            _score(each),
            _interval(each),
            each["compared"] if each["version"] != told["version"] else "",
            each["why"],
        )
        for each in told["versions"]
    ]
    title = f"{told['name']} version {told['version']}, {told['lacking'] or 'fit for production'}"
    table = render.table(("VERSION", "SUCCESS:FAILURE", "95 %", "THAN SHOWN", "WHY"), rows, render.terminal_width())
    lines = [render.printable(title), "", *map(render.printable, told["text"].splitlines()), "", *table]
    render.show(told, lines, as_json=arguments.json)
    return Exit.DONE


def _record(arguments: Namespace) -> int:
    if (arguments.execution is None) == (arguments.file is None):
        raise UsageError("give a version with --file and --why, or an --execution", "ccexecctl prompts record --help")
    with connect_to(arguments) as client:
        if arguments.execution is not None:
            told = client.call("prompts_count", {"execution_id": arguments.execution}, extra=PATIENCE)
            if told["name"] != arguments.name:
                render.remark(f"the execution ran the prompt {told['name']!r}: it was counted for that")
            render.show(told, _counted(told), as_json=arguments.json)
            return Exit.DONE
        if not arguments.why:
            raise UsageError("say what was changed, and why: --why TEXT")
        request = {"name": arguments.name, "text": _text(arguments.file), "why": arguments.why}
        told = client.call("prompts_record", {**request, "kind": "tasks" if arguments.tasks else None})
    render.show(told, [f"{told['name']} version {told['version']}"], as_json=arguments.json)
    return Exit.DONE


def _text(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise CtlError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CtlError(f"cannot read {file}: it is not UTF-8") from error


def _run(arguments: Namespace) -> int:
    options = agent_options.given_options(arguments)
    idle = [name for name in OF_AGENTS if name in options] if arguments.argv else []
    if idle:
        raise UsageError(f"a command says itself: {', '.join(idle)}", "leave out the command, or these options")
    with connect_to(arguments) as client:
        prompt = client.call("prompts_show", {"name": arguments.name, "version": arguments.version})
        if prompt["kind"] == "tasks":
            raise UsageError(f"{prompt['name']} is a list of tasks; only a prompt can be run here")
        execution_id = _executed(client, prompt, arguments.argv, options)
        told = client.call("prompts_count", {"execution_id": execution_id}, extra=PATIENCE)
    document = {**told, "execution_id": execution_id}
    render.show(document, [f"execution {execution_id}", *_counted(told)], as_json=arguments.json)
    return Exit.DONE if told["succeeded"] else Exit.FAILED


def _executed(client: Client, prompt: dict[str, Any], command: list[str], options: dict[str, Any]) -> str:
    """Run a prompt, and wait for its end.

    Args:
        client: the connection.
        prompt: the answer of `prompts_show`.
        command: the command that gets the prompt as its last word; empty for an agent.
        options: options of the Python API.

    Returns:
        The execution's id.
    """
    call = _call(prompt["text"], command, options)
    labels = {"prompt": prompt["name"], "prompt_version": str(prompt["version"]), "prompt_sha256": prompt["sha256"]}
    request = {
        "argv": call.argv,
        "cwd": str(Path(options.get("cwd", "")).absolute()),
        "env": options.get("env", {}),
        "labels": options.get("labels", {}) | labels,
        "on_disconnect": "cancel",
    }
    if not command:
        request["agent"] = options.get("agent", "claude")
    if "timeout" in options:
        request["timeout"] = options["timeout"]
    if call.stdin is not None:
        request["stdin"] = "open"
    execution_id: str = execute(client, request)["execution_id"]
    about = {"execution_id": execution_id}
    client.call("detach", about)  # its output is not printed here; `ccexecctl logs` has it
    if call.stdin is not None:
        _write(client, about, call.stdin.encode())
    asked = {**about, "timeout": WAIT}
    while "reason" not in client.call("wait", asked, extra=WAIT):
        pass
    return execution_id


def _call(text: str, command: list[str], options: dict[str, Any]) -> "Call":
    """Build the command that gives the prompt to an agent, or to `command` if that is not empty."""
    from ccexecctl.api.command_line import Call, call_of  # noqa: PLC0415  # they import attrs, which is needed here only
    from ccexecctl.api.options import AgentOptions  # noqa: PLC0415

    if command:
        return Call((*command, text))
    chosen = {name: options[name] for name in OF_AGENTS if name in options}
    return call_of(text, AgentOptions(**chosen, partial_messages=False))


def _write(client: Client, about: dict[str, Any], text: bytes) -> None:
    """Write a prompt to the execution's standard input. A program that ends before it has read all is no error."""
    try:
        for begin in range(0, len(text), STDIN_PIECE):
            piece = base64.b64encode(text[begin : begin + STDIN_PIECE]).decode("ascii")
            client.call("write_stdin", {**about, "data_base64": piece}, extra=PATIENCE)
        client.call("close_stdin", about)
    except RefusedError as refused:
        if refused.code not in (ErrorCode.STDIN_CLOSED, ErrorCode.INVALID_STATE):
            raise


def _graduate(arguments: Namespace) -> int:
    with connect_to(arguments) as client:
        told = client.call("prompts_graduate", {"name": arguments.name, "version": arguments.version})
    render.show(told, [f"{told['name']} version {told['version']} is in production"], as_json=arguments.json)
    return Exit.DONE


def _history(arguments: Namespace) -> int:
    with connect_to(arguments) as client:
        told = client.call("prompts_history", {"name": arguments.name})
    rows = [(render.moment(each["at"]), str(each["version"]), each["event"], each["told"]) for each in told["events"]]
    lines = render.table(("WHEN", "VERSION", "EVENT", ""), rows, render.terminal_width())
    render.show(told, lines, as_json=arguments.json)
    return Exit.DONE


def _counted(told: dict[str, Any]) -> Iterator[str]:
    """Yield lines for people about a run that was counted: its result, and the version's figures with it.

    Args:
        told: the answer of `prompts_count`.
    """
    how = "succeeded" if told["succeeded"] else "failed"
    before = "" if told["counted"] else ", which had been counted before"
    score = f"{_score(told)}, {_interval(told)}"
    yield render.printable(f"{told['name']} version {told['version']}: verified, {how}{before}; now {score}")
    if told["demoted"]:
        yield "it is no longer in production"


def _score(version: dict[str, Any] | None) -> str:
    return "-" if version is None else f"{version['successes']}:{version['failures']}"


def _interval(version: dict[str, Any]) -> str:
    low, high = version["interval"]
    return f"{low:.0%} to {high:.0%}"
