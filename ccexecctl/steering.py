"""What pause, resume, cancel and kill have in common, one `control` request; and release and drop, of what is held.

Owns naming the execution, the request and how the answer is told.
"""

from argparse import ArgumentParser, Namespace

from ccexecctl import render
from ccexecctl.client import connect_to
from ccexecctl.errors import Exit, UsageError

USUAL_PATIENCE = 60.0
"""Seconds that a request may take when no grace was given: the answer comes when it is true, after the last reap."""


def add_id(parser: ArgumentParser, *, required: bool = True) -> None:
    """The execution that is meant."""
    parser.usage = f"{parser.prog} [OPTIONS] {'ID' if required else '[ID]'}"
    parser.add_argument(
        "execution_id",
        metavar="ID",
        nargs=None if required else "?",
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


def add_held(parser: ArgumentParser) -> None:
    """Which of those that are held."""
    parser.usage = f"{parser.prog} [OPTIONS] ID\n       {parser.prog} [OPTIONS] --all"
    text = "an execution id of `ccexecctl ps`, or 4 or more characters that only it begins with"
    parser.add_argument("execution_id", metavar="ID", nargs="?", help=text)
    parser.add_argument("-a", "--all", action="store_true", help="all that are held")


def end_hold(arguments: Namespace, verb: str) -> int:
    """Release or drop what is held.

    Args:
        arguments: with `execution_id` or `all`.
        verb: the method.

    Returns:
        FAILED when some have to stay held.
    """
    if (arguments.execution_id is None) != arguments.all:
        raise UsageError("give an ID, or --all", f"ccexecctl {verb} --all")
    request = {"execution_id": arguments.execution_id, "all": arguments.all or None}
    with connect_to(arguments) as client:
        answer = client.call(verb, request, extra=USUAL_PATIENCE)
    done = "released" if verb == "release" else "dropped"
    render.show(answer, [f"{done} {answer[done]}"], as_json=arguments.json)
    if not answer["still_held"]:
        return Exit.DONE
    render.remark(f"{answer['still_held']} may not run and stay held; ccexecctl {verb} ID says why")
    return Exit.FAILED
