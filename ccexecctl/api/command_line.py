"""How each agent is called: its argv, and what goes to its standard input.

Owns the flags. Nothing is ever quoted into a shell string, and a value stands in one word with its option
(`--model=NAME`), so that no value can be taken for an option. Must not start anything.
"""

from collections.abc import Callable

import attrs

from ccexecctl.api.options import AgentOptions
from ccexecctl.errors import UsageError

ARGUMENT_LIMIT = 100_000
"""Bytes of a prompt that go into argv; longer ones go to standard input. Linux takes 131,072 (MAX_ARG_STRLEN)."""


@attrs.frozen
class Call:
    """How a prompt is given to an agent.

    Attributes:
        argv: the command.
        stdin: the prompt, if it goes to standard input; None if it is in `argv`.
    """

    argv: tuple[str, ...]
    stdin: str | None = None


def call_of(prompt: str, options: AgentOptions) -> Call:
    """Build the command that gives a prompt to an agent.

    Args:
        prompt: the prompt.
        options: which agent, and how it does the task.

    Returns:
        The command; its standard input has the prompt if that is longer than `ARGUMENT_LIMIT` or begins with `-`.

    Raises:
        UsageError: there is no such agent, or it has no flag for one of the options.
    """
    build = _BUILDERS.get(options.agent)
    if build is None:
        known = ", ".join(_BUILDERS)
        raise UsageError(f"there is no agent {options.agent!r}, only {known}", "others: ccexecctl run -- COMMAND")
    program = options.program or (options.agent,)
    by_stdin = len(prompt.encode()) > ARGUMENT_LIMIT or prompt.startswith("-")  # which would be taken for an option
    words = build("" if by_stdin else prompt, options)
    return Call((*program, *words, *options.arguments), prompt if by_stdin else None)


def _claude(prompt: str, options: AgentOptions) -> list[str]:
    flags = [
        *_flag("--resume", options.resume),
        *_flag("--model", options.model),
        *_flag("--permission-mode", options.permission_mode),
        *_flag("--allowedTools", ",".join(options.allowed_tools)),
        *_flag("--disallowedTools", ",".join(options.disallowed_tools)),
        *_flag("--max-turns", options.max_turns),
        *_flag("--append-system-prompt", options.system_prompt),
        *_flag("--mcp-config", options.mcp_config),
        *(["--include-partial-messages"] if options.partial_messages else []),
    ]
    return ["-p", *([prompt] if prompt else []), "--output-format=stream-json", "--verbose", *flags]


def _codex(prompt: str, options: AgentOptions) -> list[str]:
    _refuse(options, "allowed_tools", "disallowed_tools", "max_turns", "system_prompt", "mcp_config")
    flags = [*_flag("--model", options.model), *_flag("--sandbox", options.permission_mode)]
    resume = ["resume", options.resume] if options.resume else []
    return ["exec", "--json", "--skip-git-repo-check", *flags, *resume, prompt or "-"]


def _gemini(prompt: str, options: AgentOptions) -> list[str]:
    _refuse(options, "disallowed_tools", "max_turns", "system_prompt", "mcp_config")
    return [
        f"--prompt={prompt}",  # empty: all of it comes from standard input
        "--output-format=stream-json",
        *_flag("--resume", options.resume),
        *_flag("--model", options.model),
        *_flag("--approval-mode", options.permission_mode),
        *_flag("--allowed-tools", ",".join(options.allowed_tools)),
    ]


def _flag(name: str, value: object) -> list[str]:
    return [] if value in (None, "") else [f"{name}={value}"]


def _refuse(options: AgentOptions, *names: str) -> None:
    for name in names:
        if getattr(options, name):
            raise UsageError(f"{options.agent} has no option for {name}", "leave it out, or choose another agent")


_BUILDERS: dict[str, Callable[[str, AgentOptions], list[str]]] = {
    "claude": _claude,
    "codex": _codex,
    "gemini": _gemini,
}
