"""How an execution ended, for people and for scripts.

Owns the words and the exit code for each ending. Must not know how it was followed.
"""

from typing import Any

from ccexecctl import render
from ccexecctl.errors import Exit

OWN_ENDINGS = {"exited", "signaled", "post_result"}
"""Reasons that need no explanation: the command, or who signalled it, decided."""

EXPLANATIONS = {
    "timeout": "ended by its time-out",
    "stalled": "ended because it wrote nothing for too long",
    "cancelled": "cancelled",
    "disconnected": "ended because its client went away",
    "session_expired": "ended because its session expired",
    "shutdown": "ended by the shutdown of ccexecd",
    "limit": "ended by a limit on its resources",
    "lost": "lost: how it ended is not known",
    "spawn_failed": "could not be started",
}


def explain(execution_id: str, outcome: dict[str, Any], missed_bytes: int | None = None) -> None:
    """Explain on stderr how an execution ended, where its exit code alone does not say it.

    Args:
        execution_id: its id.
        outcome: the params of `process.completed`.
        missed_bytes: bytes of its output that did not reach us; None if all did.
    """
    which = f"execution {render.short(execution_id)}"
    reason = outcome.get("reason")
    if reason not in OWN_ENDINGS:
        limit = f" ({outcome['limit']})" if outcome.get("limit") else ""
        render.remark(f"{which} was {EXPLANATIONS.get(str(reason), str(reason))}{limit}")
    else:
        _explain_verdict(which, (outcome.get("agent") or {}).get("verdict") or {})
    if missed_bytes is not None:
        render.remark(f"{which} wrote {render.size(missed_bytes)} that are missing here")
    if outcome.get("left_running"):
        render.remark(f"{which} left processes running: {outcome['leftovers']}")
    elif outcome.get("leftovers"):
        render.remark(f"{which} left processes behind, which were ended: {outcome['leftovers']}")


def _explain_verdict(which: str, verdict: dict[str, Any]) -> None:
    """Explain why an agent's run failed; nothing if it succeeded."""
    if verdict and not verdict["is_success"] and verdict["cause"] != "unverified":
        render.remark(f"{which}: {verdict['cause'].replace('_', ' ')}. {verdict['advice']}")


def exit_code(outcome: dict[str, Any], *, is_incomplete: bool = False) -> int:
    """Return the exit code that a shell would give for an ending.

    It is 0 only if the command itself exited with 0, nothing else ended it, and no output is missing: a command that
    answers TERM with a clean exit has not done its work, and a script takes 0 to mean that it has all of the output.
    """
    code = outcome.get("exit_code")
    if code is None or (code == 0 and (is_incomplete or outcome.get("reason") not in OWN_ENDINGS)):
        return Exit.FAILED
    return 128 - code if code < 0 else int(code)
