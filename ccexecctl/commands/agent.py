"""`ccexecctl agent`: have a coding agent do a task, and print its answer."""

import json
import signal
import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from ccexecctl import agent_options, render
from ccexecctl.errors import Exit, UsageError
from ccexecctl.launch import connect_or_launch

if TYPE_CHECKING:
    from ccexecctl.api import AgentResult, Progress

DESCRIPTION = """\
Have a coding agent do a task under ccexecd, and print its answer. A daemon is started when none is running. What it had
said is printed also when it is cut off, by a time-out or by Ctrl-C, which cancels it. Returns 0 when it has done the
task, 1 when not, with the reason and what to do; 127 when its program is not there. With --json, all that is known."""

EXAMPLES = """\
examples:
  ccexecctl agent "What is 2+2?"
  ccexecctl agent --stream --tools Bash,Edit --timeout 900 "Make the tests in tests/ pass."
  ccexecctl agent --json-schema person.json "Who wrote Faust?" | jq .name
  ccexecctl agent --resume 0b6c1d9e-7b1f-4d54-8f3a-0f4b8c6e2a11 "And who translated it?"
  ccexecctl agent - <task.md

The global --timeout is given before the verb here; after it, --timeout is the agent's.
"""


def configure(parser: ArgumentParser) -> None:
    """Add the task, and the options that say how it is done."""
    parser.usage = f"{parser.prog} [OPTIONS] TASK"
    parser.add_argument("task", metavar="TASK", help="what is to be done; - reads it from standard input")
    agent_options.add_options(parser)
    parser.add_argument("--resume", metavar="ID", help="go on with the conversation of this session id")
    parser.add_argument("--stream", action="store_true", help="print what it says, the moment it does")
    parser.add_argument("--json-mode", action="store_true", help="its answer has to be a JSON object or list")
    parser.add_argument("--json-schema", metavar="FILE", help="its answer has to conform to this JSON Schema")
    parser.add_argument("--validate", metavar="PROMPT", help="have a fresh agent judge the answer by this")
    parser.add_argument("--amend", action="store_true", help="have a fresh agent make the task clearer first")


def run(arguments: Namespace) -> int:
    """Have the task done, and print the answer."""
    if arguments.stream and arguments.json:
        raise UsageError("what is printed live is not JSON", "leave out --stream or --json")
    task = sys.stdin.read() if arguments.task == "-" else arguments.task
    options = {
        **agent_options.given_options(arguments),
        "resume": arguments.resume,
        "json_mode": arguments.json_mode,
        "json_schema": agent_options.read_schema(arguments.json_schema),
        "validation_prompt": arguments.validate,
        "amend_prompt": arguments.amend,
        "stream": arguments.stream,
    }
    with connect_or_launch(arguments) as client:
        options["control_socket"] = client.path
    from ccexecctl.api import InterruptedTaskError, JsonReplyError, cc_execute_sync  # noqa: PLC0415  # 0.2 s

    try:
        return _show(cc_execute_sync(task, progress=_wait_told, **options), arguments)
    except JsonReplyError as error:
        return _show(error.result, arguments)
    except InterruptedTaskError as interrupted:
        _show(interrupted.result, arguments)
        return 128 + signal.SIGINT


def _wait_told(progress: "Progress") -> None:
    """Print a remark about each wait, in the queue or before another attempt: it can take minutes."""
    if progress.kind.value in ("queued", "retry"):
        render.remark(progress.message)


def _show(result: "AgentResult", arguments: Namespace) -> int:
    if not arguments.stream:
        answer = _answer(result.result, result.output)
        render.show(result.as_dict(), [answer] if answer else [], as_json=arguments.json)
    for warning in result.warnings:
        render.remark(f"warning: {warning}")
    if result.error is None:
        return Exit.DONE
    render.remark(result.error)
    if result.suggestion:
        print(f"hint: {result.suggestion}", file=sys.stderr)
    return Exit.FAILED


def _answer(value: Any, output: str) -> str:
    """Return an answer for people: a text with its control characters escaped, or another value as JSON."""
    if value is not None and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, indent=2)
    lines = (value or output).split("\n")
    return "\n".join("\t".join(map(render.printable, line.split("\t"))) for line in lines)
