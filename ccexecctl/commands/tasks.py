"""`ccexecctl tasks`: have the tasks of a file done, one after another."""

import json
import signal
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ccexecctl import agent_options, render
from ccexecctl.errors import CtlError, Exit
from ccexecctl.launch import connect_or_launch
from ccexecctl.task_table import TaskTable, report

if TYPE_CHECKING:
    from ccexecctl.api import ListResult

DESCRIPTION = "Have the tasks of a file done by coding agents, strictly one after another."

EXAMPLES = """\
examples:
  ccexecctl tasks run plan.toml
  ccexecctl tasks run plan.md --timeout 900 --report report.json
"""

RUN_DESCRIPTION = """\
Do the tasks of a file in order, each with an agent of its own that knows of the others what it depends on. How far it
has come is in FILE.state.json, with the answers: run again, it goes on with what was not done, and with nothing else; a
task whose words have changed is done again. Returns 0 when all are done, 1 when not."""

RUN_EXAMPLES = """\
examples:
  ccexecctl tasks run plan.toml
  ccexecctl tasks run plan.md --on-failure continue
  ccexecctl tasks run plan.toml --restart --json

a file in TOML:                             the same in Markdown:
  [options]
  timeout = 600
  [[task]]
  name = "plan"                               ## plan
  prompt = "Make a plan."                     timeout: 600
  [[task]]
                                              Make a plan.
  name = "judge"
  depends = ["plan"]                          ## judge
  prompt = "Judge it: {{plan}}"               depends: plan

                                              Judge it: {{plan}}
"""


def configure(parser: ArgumentParser) -> None:
    """Add the subcommand `run` with its arguments."""
    parser.usage = f"{parser.prog} [OPTIONS] run ..."
    deeds = parser.add_subparsers(dest="deed", required=True, metavar="run", prog=parser.prog)
    run_ = deeds.add_parser("run", description=RUN_DESCRIPTION, epilog=RUN_EXAMPLES, help="do them")
    run_.usage = f"{run_.prog} [OPTIONS] FILE"
    run_.add_argument("file", metavar="FILE", type=Path, help="the tasks, in TOML or Markdown (.md)")
    run_.add_argument("--state", metavar="FILE", type=Path, help="how far it has come (default: FILE.state.json)")
    run_.add_argument("--restart", action="store_true", help="do all of it again")
    run_.add_argument("--on-failure", choices=("stop", "continue"), metavar="HOW", help="stop or continue")
    run_.add_argument("--report", metavar="FILE", type=Path, help="write all results there, as JSON")
    agent_options.add_options(run_)


def run(arguments: Namespace) -> int:
    """Have the tasks done, and print a report."""
    from ccexecctl.api import cc_execute_list_sync  # noqa: PLC0415  # 0.2 s
    from ccexecctl.api.task_file import State, read_tasks  # noqa: PLC0415

    found = read_tasks(arguments.file)
    state_file = arguments.state or arguments.file.with_name(f"{arguments.file.name}.state.json")
    if arguments.restart:
        state_file.unlink(missing_ok=True)
    memory = State(state_file)
    with connect_or_launch(arguments) as client:
        given = {**found.options, **agent_options.given_options(arguments), "control_socket": client.path}
    table = TaskTable([each.name for each in found.tasks])
    try:
        done = cc_execute_list_sync(
            found.tasks,
            on_failure=arguments.on_failure or found.on_failure,
            watcher=table.changed,
            memory=memory,
            progress=table.progress,
            **given,
        )
    except KeyboardInterrupt:
        render.remark(f"interrupted; what is done is kept in {state_file}")
        return 128 + signal.SIGINT
    if arguments.report is not None:
        _write(arguments.report, done)
    render.show(_document(done), report(done, table.earlier), as_json=arguments.json)
    if not arguments.json:
        render.remark(f"the answers are in {arguments.report or state_file}")
    return Exit.DONE if done.is_success else Exit.FAILED


def _document(done: "ListResult") -> dict[str, object]:
    return {"is_success": done.is_success, "tasks": [each.as_dict() for each in done.tasks]}


def _write(path: Path, done: "ListResult") -> None:
    try:
        path.write_text(json.dumps(_document(done), indent=2), encoding="utf-8")
    except OSError as error:
        raise CtlError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
