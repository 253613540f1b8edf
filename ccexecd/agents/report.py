"""An agent's run on the wire: the field `agent` of `status` and `process.completed`, and notifications of limits.

Owns the names of fields and notifications. The two notifications, and the fields of them that clients of the earlier
cc_executor read, have the names and meanings that they had there. Must not read or judge anything.
"""

import re
from collections.abc import Sequence
from typing import Any

from ccexecd.agents.conversation import Conversation
from ccexecd.agents.verdict import Cause, Verdict

RETRY_AFTER = 60
"""Seconds of `retry_after` if the agent does not tell when the limit ends, as in the earlier cc_executor."""

_USAGE = re.compile(r"usage limit|hit your [\w ]{0,30}limit|quota|spend cap", re.IGNORECASE)


def facts_of(name: str, known: Conversation, verdict: Verdict | None, resume: Sequence[str] | None) -> dict[str, Any]:
    """Return the field `agent` of an execution, as JSON values.

    Args:
        name: the agent's name.
        known: what the agent has reported.
        verdict: how the run went; None while it goes on, and if that cannot be told.
        resume: the words that resume the conversation; None if it cannot be resumed.
    """
    newest = next(reversed(known.tools.values()), None)
    retry = known.retry
    return {
        "name": name,
        "session_id": known.session_id or None,
        "model": known.model or None,
        "version": known.version or None,
        "turns": known.turns,
        "cost_usd": known.cost,
        "usage": dict(known.usage),
        "tool": None if newest is None else {"name": newest.name, "summary": newest.summary},
        "tools_in_flight": len(known.tools),
        "tool_uses": known.tool_uses,
        "background_tasks": sum(task.tool not in known.tools for task in known.tasks.values()),
        "api_retry": None
        if retry is None
        else {
            "attempt": retry.attempt,
            "max_retries": retry.most,
            "delay": retry.delay,
            "status": retry.status,
            "error": retry.error,
        },
        "verdict": None if verdict is None else verdict_told(verdict),
        "resume": None if resume is None else list(resume),
    }


def verdict_told(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as JSON values, for the field `verdict`."""
    return {
        "cause": verdict.cause.value,
        "is_success": verdict.is_success,
        "is_retryable": verdict.is_retryable,
        "advice": verdict.advice,
        "text": verdict.text,
        "api_status": verdict.status,
        "reset_timestamp": verdict.resets_at,
        "token_limit": verdict.limit,
        "denied_tools": list(verdict.denied),
    }


def limit_reached(name: str, verdict: Verdict, session_id: str, now: float) -> tuple[str, dict[str, Any]] | None:
    """Return the notification about a limit that a run has reached.

    Args:
        name: the agent's name.
        verdict: how the run, or a turn of it, went.
        session_id: id of the client's session.
        now: the present moment, in seconds since the epoch.

    Returns:
        Its method and params; None if the verdict is about no limit.
    """
    told = {"session_id": session_id, "agent": name, "error_text": verdict.text}
    if verdict.cause is Cause.TOKEN_LIMIT:
        count = "" if verdict.limit is None else f" of {verdict.limit} tokens"
        return "error.token_limit_exceeded", {
            **told,
            "error_type": "token_limit",
            "limit": verdict.limit,
            "message": f"the token limit{count} was exceeded",
            "suggestion": verdict.advice,
            "recoverable": True,
        }
    if verdict.cause is not Cause.RATE_LIMITED:
        return None
    resets_at = verdict.resets_at
    is_usage = resets_at is not None or bool(_USAGE.search(verdict.text))
    return "error.rate_limit_exceeded", {
        **told,
        "error_type": "usage_limit" if is_usage else "rate_limit_429",
        "message": "the usage limit of the account is reached" if is_usage else "too many requests (429)",
        "suggestion": verdict.advice,
        "reset_timestamp": None if resets_at is None else int(resets_at),
        "retry_after": _retry_after(resets_at, now, is_usage=is_usage),
        "recoverable": not is_usage,
    }


def _retry_after(resets_at: float | None, now: float, *, is_usage: bool) -> int | None:
    if resets_at is not None:
        return max(int(resets_at - now) + 1, 0)
    return None if is_usage else RETRY_AFTER
