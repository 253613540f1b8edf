"""One execution as people read it: its command, state, figures and, for an agent, its conversation.

Owns the choice of facts and their words. Must not ask the daemon anything.
"""

import shlex
from collections.abc import Iterator
from typing import Any

from ccexecctl import render


def lines(execution: dict[str, Any]) -> list[str]:
    """Return a first line with the state, and one line for each further fact."""
    agent = execution.get("agent") or {}
    first = f"{execution['execution_id']} is {_standing(execution)}"
    facts = [*_facts(execution), *_agent_facts(agent)]
    return [first, *(f"  {name:<12}{render.printable(text)}" for name, text in facts)]


def ending(reason: str, exit_code: int | None) -> str:
    """Say in a word or two how an execution has ended: `exit 1`, `signal 9`, `timeout`."""
    if reason == "signaled" and exit_code is not None:
        return f"signal {-exit_code}"
    return f"exit {exit_code}" if reason == "exited" else reason


def _standing(execution: dict[str, Any]) -> str:
    state = str(execution["state"]).lower()
    if state != "finished":
        position = execution.get("queue_position")
        lane = f" of the lane {execution['lane']}" if execution.get("lane") else ""
        return state if position is None else f"{state}, {position} from the front{lane}"
    code, reason = execution["exit_code"], execution["reason"]
    how = f"finished: {reason}" + (f" ({execution['limit']})" if execution.get("limit") else "")
    if code is None:
        return how
    return f"{how}, signal {-code}" if code < 0 else f"{how}, exit code {code}"


def _facts(execution: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "command", execution["command"]
    yield "cwd", execution["cwd"]
    if execution["pid"] is not None:
        yield "pid", str(execution["pid"])
    yield "started", render.moment(execution["started_at"])
    if execution["pid"] is not None:
        yield "duration", render.duration(execution["duration"])
    yield "output", f"{render.size(execution['stdout_bytes'])}, errors {render.size(execution['stderr_bytes'])}"
    if execution.get("lane"):
        yield "lane", execution["lane"]
    if execution["labels"]:
        yield "labels", ", ".join(f"{name}={value}" for name, value in execution["labels"].items())
    used = execution.get("resources")
    if used and execution["pid"] is not None:
        use = f"{render.duration(used['cpu_seconds'])} of CPU, {render.size(used['memory_bytes'])}"
        yield "uses", f"{use}, {render.counted(used['process_count'], 'process', 'processes')}"
    if execution["error"]:
        yield "error", execution["error"]


def _agent_facts(agent: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not agent:
        return
    yield "agent", " ".join(filter(None, (agent["name"], agent["version"], agent["model"])))
    if agent["session_id"]:
        yield "session", agent["session_id"]
    if agent["turns"] or agent["cost_usd"] is not None:
        yield "used", _used(agent)
    if agent["tool"]:
        yield "tool", f"{agent['tool']['name']}: {agent['tool']['summary']}"
    if agent["tool_uses"]:
        running = agent["tools_in_flight"] + agent["background_tasks"]
        yield "tools", f"{agent['tool_uses']} used" + (f", {running} at work" if running else "")
    retry = agent["api_retry"]
    if retry:
        status = "" if retry["status"] is None else f" ({retry['status']})"
        yield "API", f"failed: {retry['error']}{status}; attempt {retry['attempt']} of {retry['max_retries'] or '?'}"
    if agent["last_event_at"]:
        yield "last event", render.moment(agent["last_event_at"])
    verdict = agent["verdict"]
    if verdict:
        yield "verdict", f"{verdict['cause'].replace('_', ' ')}: {verdict['advice']}"
        if verdict["text"] and not verdict["is_success"]:
            yield "details", verdict["text"]
        if verdict["denied_tools"]:
            yield "denied", ", ".join(verdict["denied_tools"])
    if agent["resume"]:
        yield "go on with", f"{shlex.join(agent['resume'])} PROMPT"


def _used(agent: dict[str, Any]) -> str:
    """Return turns, tokens and cost of an agent, as far as they are known."""
    usage = agent["usage"]
    told = [render.counted(agent["turns"], "turn")]
    if "output_tokens" in usage:
        told.append(f"{usage.get('input_tokens', 0)} tokens in, {usage['output_tokens']} out")
    if agent["cost_usd"] is not None:
        told.append(f"${agent['cost_usd']:.4f}")
    return ", ".join(told)
