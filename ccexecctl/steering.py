"""What pause, resume, cancel and kill have in common: one `control` request about one execution.

Owns naming the execution, the request and how the answer is told.
"""

from argparse import ArgumentParser, Namespace

from ccexecctl import render
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit

USUAL_PATIENCE = 60.0
"""Seconds that a request may take when no grace was given: the answer comes when it is true, after the last reap."""


def add_id(parser: ArgumentParser) -> None:
    """The execution that is meant."""
    parser.usage = f"{parser.prog} [OPTIONS] ID"
    parser.add_argument(
        "execution_id",
        metavar="ID",
        help="an execution id of `ccexecctl ps`, or 4 or more characters that only it begins with",
    )


def steer(arguments: Namespace, deed: str) -> int:
    """Ask for it, and wait until it is true.

    Args:
        arguments: with `execution_id`, and `grace` where the verb has it.
        deed: the wire contract's name: PAUSE, RESUME, CANCEL or KILL.

    Returns:
        FAILED when it is not true of all its processes.
    """
    grace = getattr(arguments, "grace", None)
    request = {"type": deed, "execution_id": arguments.execution_id, "grace": grace}
    with connect_to(arguments) as client:
        answer = client.call("control", request, extra=USUAL_PATIENCE + (grace or 0.0))
    render.show(answer, [f"{answer['status']} {answer['execution_id']}"], as_json=arguments.json)
    survivors = answer.get("survivors")
    if not survivors:
        return Exit.DONE
    render.remark(f"not {answer['status']}: {', '.join(f'pid {pid}' for pid in survivors)}")
    return Exit.FAILED
