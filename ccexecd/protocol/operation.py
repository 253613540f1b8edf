"""The params of the operator's methods, which only the control socket serves: policy, hooks, tokens, the stop.

Owns their names, types and bounds, as `messages` does for the methods about executions.
"""

from typing import Literal

import attrs

from ccexecd.protocol.checks import require, require_argv, require_command
from ccexecd.protocol.codec import Seconds, Text

HookEvent = Literal["pre_execute", "post_execute", "on_output", "on_error", "on_stall"]


@attrs.frozen
class Policy:
    """`policy`: what may run; with `argv` or `command`, whether that may, and why. `env` are names."""

    command: Text | None = None
    argv: tuple[Text, ...] | None = None
    cwd: Text | None = None
    env: tuple[Text, ...] = ()
    principal: Text | None = None

    def __attrs_post_init__(self) -> None:
        require(self.command is None or self.argv is None, "$", "not both of command and argv")
        require_argv(self.argv)


@attrs.frozen
class HookTest:
    """`hook_test`: which hooks a command would meet; nothing is called."""

    command: Text | None = None
    argv: tuple[Text, ...] | None = None
    cwd: Text | None = None
    lane: Text | None = None
    labels: dict[str, str] = attrs.field(factory=dict)
    principal: Text | None = None

    def __attrs_post_init__(self) -> None:
        require_command(self.command, self.argv)


@attrs.frozen
class HookRun:
    """`hook_run`: call one hook about a command that is not run; an event is needed where it has several."""

    name: Text
    event: HookEvent | None = None
    argv: tuple[Text, ...] = (Text("true"),)
    cwd: Text | None = None
    lane: Text | None = None
    labels: dict[str, str] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        require_argv(self.argv)


@attrs.frozen
class Stop:
    """`stop`: end the daemon; `drain` lets executions finish by themselves first, `grace` is from TERM to KILL."""

    drain: Seconds | None = None
    grace: Seconds | None = None


@attrs.frozen
class TokenAdd:
    """`token_add`: make a token that admits clients; `lifetime` is in seconds, null = for ever."""

    name: Text
    scopes: tuple[Literal["observe", "execute", "admin"], ...]
    lifetime: Seconds | None = None

    def __attrs_post_init__(self) -> None:
        require(bool(self.scopes), "$.scopes", "must not be empty")


@attrs.frozen
class TokenRotate:
    """`token_rotate`: give a token another text."""

    name: Text = Text("default")


@attrs.frozen
class TokenRevoke:
    """`token_revoke`: withdraw a token for good."""

    name: Text
