"""The texts that are sent to agents around a task, and checks of a task before it is sent.

Owns these texts. Pure: must not start anything.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from ccexecctl.errors import UsageError

FEW_WORDS = 3
"""A task with fewer words gets a warning that it is too short to be clear; `What is 2+2?` has three."""

_NOTICED = (
    (
        re.compile(
            r"^\s*(?:please\s+)?(?:fix|change|update|improve|finish|do|continue|try)\s+(?:it|this|that|them)\b",
            re.IGNORECASE,
        ),
        "it says {found!r}, and a fresh agent has seen nothing that this could mean: name it",
    ),
    (
        re.compile(
            r"\b(?:as (?:we )?discussed|as before|like last time|the previous (?:answer|task|conversation))\b",
            re.IGNORECASE,
        ),
        "it refers to {found!r}, which a fresh agent does not know: say it again, or use resume=",
    ),
    (
        re.compile(r"\b(?:ask me|let me know (?:if|when|before)|wait for my|confirm with me)\b", re.IGNORECASE),
        "it wants an answer in between ({found!r}), and nobody is there to give one: decide beforehand",
    ),
    (
        re.compile(r"<(?:insert|your|todo|placeholder)[^>]*>|\b(?:TODO|TBD|FIXME|XXX)\b|\{\{[^}]*\}\}"),
        "it holds {found!r}, which looks like a blank that was to be filled in",
    ),
    (
        re.compile(r"\b(?:etc\.?|and so on|or something|or whatever|somehow)(?=\W|$)", re.IGNORECASE),
        "it leaves open what belongs to it ({found!r}): list it",
    ),
)
"""Patterns that are looked for in a task, each with its warning."""


def ambiguities(task: str) -> tuple[str, ...]:
    """Return a warning for each sign that an agent which knows nothing but the task may misunderstand it."""
    found = [] if len(task.split()) >= FEW_WORDS else ["it is very short: say what is to be done, and with what"]
    for pattern, remark in _NOTICED:
        match = pattern.search(task)
        if match:
            found.append(remark.format(found=" ".join(match.group().split())[:60]))
    return tuple(f"the task may be misunderstood: {each}" for each in found)


def require_fit(task: str, limit: int) -> None:
    """Make sure that a task can be sent.

    Args:
        task: the task.
        limit: most bytes that it may have.

    Raises:
        UsageError: it is empty, too long, or not text.
    """
    if not task.strip():
        raise UsageError("the task is empty", 'say what is to be done, such as "What is 2+2?"')
    try:
        size = len(task.encode())
    except UnicodeEncodeError as error:
        raise UsageError("the task is no text: it has half of a character in it", "decode it as UTF-8") from error
    if "\0" in task:
        raise UsageError("the task has a NUL character in it, which no command line can carry", "remove it")
    if size > limit:
        raise UsageError(
            f"the task has {size} bytes, {limit} at most are sent: more than a model reads at once",
            "put the material into files and name them in the task, or raise prompt_limit",
        )


def asking_for_json(task: str, schema: Mapping[str, Any] | None) -> str:
    """Return a task with the instruction to reply in JSON, by a schema if there is one."""
    if schema is None:
        form = "one JSON object (or list)"
    else:
        form = f"one JSON value that conforms to this JSON Schema:\n\n{json.dumps(schema, ensure_ascii=False)}\n"
    return f"{task}\n\nReply with {form}, and with nothing else: no explanation and no code fence."


def asking_for_uuid(task: str, expected: str) -> str:
    """Return a task with the instruction to end the reply with a UUID, which proves that the task was read."""
    return f"{task}\n\nEnd your reply with this line, exactly as it is:\nExecution UUID: {expected}"


def asking_again(problem: str) -> str:
    """Return what is sent in the same conversation after a reply that is not the expected JSON."""
    return (
        f"Your reply cannot be used: {problem}. Do not do the task again. Give the same answer once more, as JSON that "
        "conforms to what was asked for, and nothing else: no explanation and no code fence."
    )


def asking_afresh(task: str, reply: str, problem: str) -> str:
    """Return what is sent to a fresh agent, with task and reply, after a reply that is not the expected JSON."""
    return f"{task}\n\nAn earlier reply to this was:\n\n{reply}\n\nIt cannot be used: {problem}."


def amending(task: str) -> str:
    """Return the prompt by which a fresh agent rewrites a task."""
    return (
        "Rewrite the task below, so that an agent which knows nothing else and can ask nobody does exactly what its "
        "author means: name what is vague, say what the result has to be, leave out what does not matter, and add no "
        "work that was not asked for. Do not do the task. Reply with the rewritten task and nothing else.\n\n"
        f"<task>\n{task}\n</task>"
    )


def judging(validation_prompt: str, task: str, response: str) -> str:
    """Return the prompt by which a fresh agent judges an answer."""
    asked = validation_prompt
    has_places = "{task}" in asked or "{response}" in asked
    filled = re.sub(r"\{(task|response)\}", lambda place: task if place[1] == "task" else response, asked)
    if not has_places:
        filled += f"\n\n<task>\n{task}\n</task>\n\n<response>\n{response}\n</response>"
    return f"Judge whether the response to a task is right. Do not do the task.\n\n{filled}"


VERDICT_SCHEMA = {
    "type": "object",
    "properties": {"is_valid": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["is_valid", "reason"],
}
"""JSON Schema of the reply of an agent that judges an answer."""


def with_outputs(prompt: str, outputs: Mapping[str, str]) -> str:
    """Return a prompt with the outputs of earlier tasks, each in place of `{{name}}`, or at the end if not named."""
    missing = [name for name in outputs if f"{{{{{name}}}}}" not in prompt]
    names = "|".join(map(re.escape, outputs))
    filled = re.sub(rf"\{{\{{({names})\}}\}}", lambda place: outputs[place[1]], prompt) if outputs else prompt
    behind = [f'<output task="{name}">\n{outputs[name]}\n</output>' for name in missing]
    return "\n\n".join([filled, *behind])
