"""Common code of the verbs pause, resume, cancel and kill (one `control` request each), and of release and drop.

Owns their arguments that name executions, the request, and how the answer is shown. Must not know any other verb.
"""

from argparse import ArgumentParser, Namespace
from typing import Any

from ccexecctl import render
from ccexecctl.client import Client, connect_to
from ccexecctl.errors import Exit, RefusedError, UsageError

USUAL_PATIENCE = 60.0
"""Seconds that a request may take if no grace was given: the answer comes only when the last process was reaped."""


def add_id(parser: ArgumentParser, *, required: bool = True) -> None:
    """Add the argument that names one execution."""
    parser.usage = f"{parser.prog} [OPTIONS] {'ID' if required else '[ID]'}"
    parser.add_argument(
        "execution_id",
        metavar="ID",
        nargs=None if required else "?",
        help="an execution id of `ccexecctl ps`, or 4 or more characters that only it begins with",
    )


def add_ids(parser: ArgumentParser) -> None:
    """Add the arguments that name one or more executions."""
    parser.usage = f"{parser.prog} [OPTIONS] ID..."
    text = "execution ids of `ccexecctl ps`, or 4 or more characters that only one begins with"
    parser.add_argument("execution_ids", metavar="ID", nargs="+", help=text)


def steer(arguments: Namespace, deed: str) -> int:
    """Send a `control` request for each execution, one after the other, and wait until it is carried out.

    Args:
        arguments: with `execution_ids`, and `grace` where the verb has it.
        deed: the wire contract's name: PAUSE, RESUME, CANCEL or KILL.

    Returns:
        DONE; FAILED if it could not be carried out for every process of every execution.

    Raises:
        RefusedError: only one execution was named, and the daemon refused.
    """
    told: list[dict[str, Any]] = []
    is_true = True
    with connect_to(arguments) as client:
        for execution_id in arguments.execution_ids:
            try:
                answer = _controlled(client, arguments, execution_id, deed)
            except RefusedError as error:
                if len(arguments.execution_ids) == 1:
                    raise
                told.append({"error": error.as_json()})
                render.remark(error.message)
                is_true = False
            else:
                told.append(answer)
                is_true = not answer.get("survivors") and is_true
    if arguments.json:
        render.show(told if len(arguments.execution_ids) > 1 else told[0], [], as_json=True)
    return Exit.DONE if is_true else Exit.FAILED


def _controlled(client: Client, arguments: Namespace, execution_id: str, deed: str) -> dict[str, Any]:
    grace = getattr(arguments, "grace", None)
    request = {"type": deed, "execution_id": execution_id, "grace": grace}
    answer: dict[str, Any] = client.call("control", request, extra=USUAL_PATIENCE + (grace or 0.0))
    if not arguments.json:
        print(f"{answer['status']} {answer['execution_id']}", flush=True)
    if answer.get("survivors"):
        render.remark(f"not {answer['status']}: {', '.join(f'pid {pid}' for pid in answer['survivors'])}")
    return answer


def add_held(parser: ArgumentParser) -> None:
    """Add the arguments that name one held execution, or all."""
    parser.usage = f"{parser.prog} [OPTIONS] ID\n       {parser.prog} [OPTIONS] --all"
    text = "an execution id of `ccexecctl ps`, or 4 or more characters that only it begins with"
    parser.add_argument("execution_id", metavar="ID", nargs="?", help=text)
    parser.add_argument("-a", "--all", action="store_true", help="all that are held")


def end_hold(arguments: Namespace, verb: str) -> int:
    """Release or drop held executions.

    Args:
        arguments: with `execution_id` or `all`.
        verb: the method: `release` or `drop`.

    Returns:
        DONE; FAILED if some have to stay held.
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
