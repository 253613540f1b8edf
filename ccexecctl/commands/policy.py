"""`ccexecctl policy`: show the policy in force, or tell why a command may or may not run."""

import json
import os
from argparse import REMAINDER, ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ccexecctl import render
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit, UsageError, invalid

DESCRIPTION = "Show what may run, or why something may or may not: by the allow-list and the policy file."

EXAMPLES = """\
examples:
  ccexecctl policy show
  ccexecctl policy test -- git push
  ccexecctl policy test --file ./policy.toml --shell 'git log; rm x'
"""

SHOW_DESCRIPTION = "Show the allow-list and the rules that are in force, and what they allow without saying so."

SHOW_EXAMPLES = """\
example:
  ccexecctl policy show
"""

TEST_DESCRIPTION = """\
Explain whether something may run: which rule decides, and why those before it do not. Nothing is run. Returns 0 when it
is allowed, 1 when it is refused. Asks the running daemon; with --file, a policy file that is not in force yet is judged
by here, with this PATH and this machine's programs."""

TEST_EXAMPLES = """\
examples:
  ccexecctl policy test -- git push
  ccexecctl policy test --cwd /srv --env LD_PRELOAD -- make
  ccexecctl policy test --shell 'ls | wc -l'
  ccexecctl policy test --file ./policy.toml --principal 'uid:1000' -- claude -p x
"""


def configure(parser: ArgumentParser) -> None:
    """Add the two subcommands, each with its arguments."""
    parser.usage = f"{parser.prog} [OPTIONS] show|test ..."
    deeds = parser.add_subparsers(dest="deed", required=True, metavar="show|test", prog=parser.prog)
    show = deeds.add_parser("show", description=SHOW_DESCRIPTION, epilog=SHOW_EXAMPLES, help="what is in force")
    show.set_defaults(deed=_show)
    test = deeds.add_parser("test", description=TEST_DESCRIPTION, epilog=TEST_EXAMPLES, help="explain a verdict")
    test.usage = f"{test.prog} [OPTIONS] -- CMD ARGS\n       {test.prog} [OPTIONS] --shell COMMAND"
    test.add_argument("--shell", metavar="COMMAND", help="a COMMAND for the shell, instead of CMD ARGS")
    test.add_argument("--cwd", metavar="DIR", help="as if run in DIR (default: this directory)")
    test.add_argument("--env", metavar="NAME", action="append", default=[], help="a variable that is set")
    test.add_argument("--principal", metavar="WHO", help="who asks (default: you, at the control socket)")
    test.add_argument("--file", metavar="FILE", type=Path, help="judge by this policy file, without a daemon")
    test.add_argument("argv", nargs=REMAINDER, metavar="-- CMD ARGS", help="the command")
    test.set_defaults(deed=_test)


def run(arguments: Namespace) -> int:
    """Run the chosen subcommand."""
    code: int = arguments.deed(arguments)
    return code


def _show(arguments: Namespace) -> int:
    with connect_to(arguments) as client:
        shown = client.call("policy")
    allowed, rules = shown["allowed_commands"], shown["policy"]
    lines = ["allowed_commands: " + ("not set" if allowed is None else ", ".join(allowed) or "none")]
    if rules is None:
        lines.append("policy_file: not set")
    else:
        lines.append(f"policy_file: {shown['policy_file']}, default {rules['default']}")
        lines += [f"  {_line_of(rule)}" for rule in rules["rules"]]
    lines += [f"warning: {warning}" for warning in shown["warnings"]]
    render.show(shown, map(render.printable, lines), as_json=arguments.json)
    return Exit.DONE


def _line_of(rule: dict[str, Any]) -> str:
    conditions = [f"{key}={json.dumps(value)}" for key, value in rule.items() if key not in ("action", "place")]
    return " ".join([f"{rule['place']}. {rule['action']}", *conditions])


def _test(arguments: Namespace) -> int:
    words = arguments.argv[arguments.argv[:1] == ["--"] :]
    if (arguments.shell is None) == (not words):
        raise UsageError("give either a command's words or --shell COMMAND", "ccexecctl policy test --help")
    asked = {
        "command": arguments.shell,
        "argv": words or None,
        "cwd": str(Path(arguments.cwd or "").absolute()),
        "env": arguments.env,
        "principal": arguments.principal,
    }
    if arguments.file is None:
        with connect_to(arguments) as client:
            told = client.call("policy", asked)
    else:
        told = _judged_here(arguments.file, asked)
    render.show(told, map(render.printable, _lines(told)), as_json=arguments.json)
    return Exit.DONE if told["decision"] == "allowed" else Exit.FAILED


def _lines(told: dict[str, Any]) -> list[str]:
    facts = {
        "program": told["executable"] or "none that can be told",
        "words": "a shell is needed to tell" if told["words"] is None else json.dumps(told["words"]),
        "directory": told["cwd"],
        "asked by": told["principal"],
        "run as": told.get("run_as"),
    }
    lines = [f"{told['decision']}: {told['reason']}"]
    lines += [f"  {name:<11}{value}" for name, value in facts.items() if value is not None]
    lines += [f"  not {step['rule']}: {step['miss']}" for step in told["steps"]]
    return lines + [f"warning: {warning}" for warning in told["warnings"]]


def _judged_here(file: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Judge a command by a policy file, in this process.

    Raises:
        CtlError: the file is not valid.
    """
    from ccexecd import policy_file  # noqa: PLC0415  # attrs and cattrs: only this deed pays for them
    from ccexecd.judgement import Judge, question  # noqa: PLC0415
    from ccexecd.keys import Config  # noqa: PLC0415
    from ccexecd.operator_file import FaultyFileError  # noqa: PLC0415

    try:
        rules = policy_file.load(file)
    except FaultyFileError as error:
        raise invalid(f"the policy file {file}", error.lines) from error
    given = {"cwd": asked["cwd"], "env": dict.fromkeys(asked["env"], "\0")}
    spec = question(asked["argv"] and tuple(asked["argv"]), asked["command"], "/bin/sh", **given)
    who = asked["principal"] or f"uid:{os.geteuid()}"
    judge = Judge(Config(), rules, os.environ)
    told = judge.explain(spec, who)
    return told | {"warnings": told["warnings"] + judge.warnings()}
