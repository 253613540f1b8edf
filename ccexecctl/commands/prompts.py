"""`ccexecctl prompts`: a ledger of prompts, their versions, and what came of each in verified runs."""

import sys
from argparse import REMAINDER, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ccexecctl import render
from ccexecctl.arguments import count
from ccexecctl.client import Client, connect_to
from ccexecctl.errors import CtlError, Exit, RefusedError, UsageError
from ccexecd.protocol.errors import ErrorCode

DESCRIPTION = """\
Keep prompts and lists of tasks by name and version: what was changed and why, and what came of it. Only runs whose
evidence is verified count (ccexecctl verify). A version may go into production with ten successes for each failure, in
ten runs at least, and leaves it when it falls below that."""

EXAMPLES = """\
examples:
  ccexecctl prompts record review --file review.md --why 'asks for a list of files first'
  ccexecctl prompts run review -- claude --output-format=stream-json --verbose -p
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
Run a prompt: the command, with the prompt as its last argument, under the daemon. Wait for its end, verify it, and
count what came of it. Returns 0 when it has succeeded, 1 when it has failed."""

GRADUATE_DESCRIPTION = "Take a version into production: the newest, unless another one is named."

HISTORY_DESCRIPTION = "Print what has happened to a prompt: versions, runs, graduations and demotions."

AGENT = ("claude", "--output-format=stream-json", "--verbose", "-p")
"""What runs a prompt where nothing else is named. The prompt is its last word."""

WAIT = 20.0
"""Seconds that one request waits for the end of a run. Each answer also shows that the daemon is alive."""


def configure(parser: ArgumentParser) -> None:
    """Add the six deeds."""
    metavar = "list|show|run|record|graduate|history"
    parser.usage = f"{parser.prog} [OPTIONS] {metavar} ..."
    deeds = parser.add_subparsers(dest="deed", required=True, metavar=metavar, prog=parser.prog)

    def add(name: str, description: str, example: str, summary: str) -> ArgumentParser:
        epilog = f"example:\n  ccexecctl prompts {example}\n"
        deed: ArgumentParser = deeds.add_parser(name, description=description, epilog=epilog, help=summary)
        return deed

    add("list", LIST_DESCRIPTION, "list", "every prompt").set_defaults(deed=_list)
    show = add("show", SHOW_DESCRIPTION, "show review --version 2", "one, and how its versions do")
    show.set_defaults(deed=_show)
    run_ = add("run", RUN_DESCRIPTION, "run review", "run one, and count what came of it")
    run_.set_defaults(deed=_run)
    record = add("record", RECORD_DESCRIPTION, "record review --file review.md --why shorter", "a version, or a run")
    record.set_defaults(deed=_record)
    graduate = add("graduate", GRADUATE_DESCRIPTION, "graduate review", "into production")
    graduate.set_defaults(deed=_graduate)
    history = add("history", HISTORY_DESCRIPTION, "history review", "what has happened to one")
    history.set_defaults(deed=_history)
    for deed in (show, run_, record, graduate, history):
        deed.add_argument("name", metavar="NAME", help="of the prompt")
    for deed in (show, run_, graduate):
        deed.add_argument("--version", metavar="N", type=_version, help="which one")
    run_.usage = f"{run_.prog} [OPTIONS] NAME [-- CMD ARGS]"
    run_.add_argument("argv", nargs=REMAINDER, metavar="-- CMD ARGS", help=f"what runs it (default: {' '.join(AGENT)})")
    record.add_argument("--file", metavar="FILE", help="the text; - is standard input")
    record.add_argument("--why", metavar="TEXT", help="what was changed, and why")
    record.add_argument("--tasks", action="store_true", help="it is a list of tasks")
    record.add_argument("--execution", metavar="ID", help="count this execution instead")


def run(arguments: Namespace) -> int:
    """Do the one that was chosen."""
    try:
        code: int = arguments.deed(arguments)
    except RefusedError as refused:
        if refused.code == ErrorCode.INVALID_STATE:  # it is about a prompt, and says what is missing
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
            told = client.call("prompts_count", {"execution_id": arguments.execution}, extra=3600.0)
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
    command = arguments.argv[arguments.argv[:1] == ["--"] :] or list(AGENT)
    with connect_to(arguments) as client:
        prompt = client.call("prompts_show", {"name": arguments.name, "version": arguments.version})
        if prompt["kind"] == "tasks":
            raise UsageError(f"{prompt['name']} is a list of tasks; only a prompt can be run here")
        execution_id = _executed(client, prompt, command)
        told = client.call("prompts_count", {"execution_id": execution_id}, extra=3600.0)
    document = {**told, "execution_id": execution_id}
    render.show(document, [f"execution {execution_id}", *_counted(told)], as_json=arguments.json)
    return Exit.DONE if told["succeeded"] else Exit.FAILED


def _executed(client: Client, prompt: dict[str, Any], command: list[str]) -> str:
    """Run a prompt to its end. Returns the execution's id."""
    labels = {"prompt": prompt["name"], "prompt_version": str(prompt["version"]), "prompt_sha256": prompt["sha256"]}
    request = {"argv": [*command, prompt["text"]], "cwd": str(Path.cwd()), "labels": labels, "on_disconnect": "cancel"}
    started = client.call("execute", request)
    execution_id: str = started["execution_id"]
    client.call("detach", {"execution_id": execution_id})  # its output is for `ccexecctl logs`
    asked = {"execution_id": execution_id, "timeout": WAIT}
    while "reason" not in client.call("wait", asked, extra=WAIT):
        pass
    return execution_id


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
    """What a run has come to, and what the version has come to with it."""
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
