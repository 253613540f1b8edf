"""`ccexecctl hooks`: list the hooks in force, call one, or tell which of them a command would meet."""

import json
from argparse import REMAINDER, Namespace
from pathlib import Path
from typing import Any

from ccexecctl import render
from ccexecctl.arguments import Parser, pair
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit, UsageError, invalid

EVENTS = ("pre_execute", "post_execute", "on_output", "on_error", "on_stall")
"""The events of hooks, as in `ccexecd.core.hooks`, which is not imported here."""

LONGEST_CALL = 3600.0
"""The longest time-out of a hook in seconds, as in `ccexecd.hooks.file`."""

DESCRIPTION = "Show the hooks that are in force and what came of them, try one, or see which ones a command would meet."

EXAMPLES = """\
examples:
  ccexecctl hooks list
  ccexecctl hooks test -- claude -p x
  ccexecctl hooks test --file ./hooks.toml
  ccexecctl hooks run venv -- python3 -V
"""

LIST_DESCRIPTION = "List the hooks that are in force, how often each was called, and what went wrong last."

LIST_EXAMPLES = """\
example:
  ccexecctl hooks list
"""

RUN_DESCRIPTION = """\
Call one hook about a command that is not run, and show its answer: what the command would become, or why it would be
refused. The hook itself is really called, and told that this is a trial. Returns 0 when it has answered, 1 when it
refuses or fails."""

RUN_EXAMPLES = """\
examples:
  ccexecctl hooks run venv -- python3 -V
  ccexecctl hooks run report --event on_error --label job=nightly
"""

TEST_DESCRIPTION = """\
Show which hooks a command would meet at which event; nothing is called. With --file, see whether a hooks file that is
not in force yet is valid, without a daemon, and which of its hooks a command would meet. Returns 1 when it is not."""

TEST_EXAMPLES = """\
examples:
  ccexecctl hooks test -- claude -p x
  ccexecctl hooks test --lane slow --label job=nightly -- make
  ccexecctl hooks test --file ./hooks.toml
"""


def configure(parser: Parser) -> None:
    """Add the three subcommands, each with its arguments."""
    parser.usage = f"{parser.prog} [OPTIONS] list|run|test ..."
    deeds = parser.add_subparsers(dest="deed", required=True, metavar="list|run|test", prog=parser.prog)
    shown = deeds.add_parser("list", description=LIST_DESCRIPTION, epilog=LIST_EXAMPLES, help="what is in force")
    shown.set_defaults(deed=_list)
    tried = deeds.add_parser("run", description=RUN_DESCRIPTION, epilog=RUN_EXAMPLES, help="call one")
    tried.usage = f"{tried.prog} [OPTIONS] NAME [-- CMD ARGS]"
    tried.add_argument("name", metavar="NAME", help="the hook")
    tried.add_argument("--event", choices=EVENTS, metavar="EVENT", help="which event, where it has several")
    tried.set_defaults(deed=_run)
    tested = deeds.add_parser("test", description=TEST_DESCRIPTION, epilog=TEST_EXAMPLES, help="who would be called")
    tested.usage = f"{tested.prog} [OPTIONS] [-- CMD ARGS]"
    tested.add_argument("--file", metavar="FILE", type=Path, help="look into this file, without a daemon")
    tested.set_defaults(deed=_test)
    for each in (tried, tested):
        each.add_argument("--cwd", metavar="DIR", help="the command's working directory")
        each.add_argument("--lane", metavar="NAME", help="its lane")
        each.add_argument("--label", metavar="K=V", action="append", default=[], type=pair, help="a label of it")
    tried.add_command("the command that it is about")
    tested.add_argument("argv", nargs=REMAINDER, metavar="-- CMD ARGS", help="the command that it is about")


def run(arguments: Namespace) -> int:
    """Run the chosen subcommand."""
    code: int = arguments.deed(arguments)
    return code


def _list(arguments: Namespace) -> int:
    with connect_to(arguments) as client:
        told = client.call("hook_status")
    rows = [
        (
            hook["name"] + (" (required)" if hook["required"] else ""),
            ",".join(hook["events"]),
            str(hook["calls"]),
            str(hook["refusals"]),
            str(hook["failures"]),
            str(hook["unmade"]),
            f"{hook['seconds'] / hook['calls']:.3f}s" if hook["calls"] else "-",
            (hook.get("last_failure") or {}).get("message", ""),
        )
        for hook in told["hooks"]
    ]
    header = ("HOOK", "EVENTS", "CALLS", "REFUSED", "FAILED", "UNMADE", "EACH", "LAST FAILURE")
    lines = render.table(header, rows, render.terminal_width()) if rows else ["no hooks (hooks_file is not set)"]
    render.show(told, lines, as_json=arguments.json)
    return Exit.DONE


def _run(arguments: Namespace) -> int:
    asked = {"name": arguments.name, "event": arguments.event, **_about(arguments)}
    with connect_to(arguments) as client:
        told = client.call("hook_run", asked, extra=LONGEST_CALL)
    render.show(told, map(render.printable, _lines_of_trial(told)), as_json=arguments.json)
    return Exit.DONE if told["status"] == "ok" else Exit.FAILED


def _lines_of_trial(told: dict[str, Any]) -> list[str]:
    said = f": {told['message']}" if told["message"] else ""
    lines = [f"{told['hook']} at {told['event']}: {told['status']}{said}"]
    if told["status"] == "failed":
        return lines
    facts = {
        "took": f"{told['seconds']:.3f}s",
        "runs": json.dumps(told["runs"]) if told["event"] == "pre_execute" else "",
        "sets": ", ".join(told["environment_names"]),
        "unsets": ", ".join(told["unset"]),
        "complains": told["complaint"].strip(),
    }
    return lines + [f"  {name:<11}{value}" for name, value in facts.items() if value]


def _test(arguments: Namespace) -> int:
    about = _about(arguments)
    if arguments.file is not None:
        told = _tested_here(arguments.file, about)
    elif "argv" not in about:
        raise UsageError("give a command's words, or --file FILE", "ccexecctl hooks test --help")
    else:
        with connect_to(arguments) as client:
            told = client.call("hook_test", about)
    lines = [f"{event:<14}{', '.join(names) or '-'}" for event, names in told["hooks"].items()]
    render.show(told, map(render.printable, lines), as_json=arguments.json)
    return Exit.DONE


def _about(arguments: Namespace) -> dict[str, Any]:
    """Return the command that the hooks are asked about, as params of `hook_test` and `hook_run`."""
    words = arguments.argv[arguments.argv[:1] == ["--"] :]
    labels = dict(arguments.label)
    about = {"argv": words or None, "cwd": arguments.cwd, "lane": arguments.lane, "labels": labels or None}
    return {name: value for name, value in about.items() if value is not None}


def _tested_here(file: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Read a hooks file in this process. Returns the hooks that a command would meet; without a command, all.

    Raises:
        CtlError: the file is not valid.
    """
    from ccexecd.core.spec import Spec  # noqa: PLC0415  # attrs and cattrs: only this needs them
    from ccexecd.hooks import file as hooks_file  # noqa: PLC0415
    from ccexecd.operator_file import FaultyFileError  # noqa: PLC0415

    try:
        hooks = hooks_file.load(file)
    except FaultyFileError as error:
        raise invalid(f"the hooks file {file}", error.lines) from error
    words = tuple(about.get("argv", ()))
    spec = Spec(words, " ".join(words), lane=about.get("lane", ""), labels=about.get("labels", {}))
    met = {
        event: [hook.name for hook in hooks if event in hook.events and (not words or hook.wants(event, spec, ""))]
        for event in EVENTS
    }
    return {"command": spec.display, "hooks": met}
