"""The methods of the control socket: those of `service`, and those for operators only.

Owns the results of the latter. The daemon is handed in as a protocol (`Operated`). Must not import the daemon.
"""

import platform
from collections.abc import Awaitable
from typing import Any, Protocol

from ccexecd import __version__
from ccexecd.config import ConfigError
from ccexecd.control.hooks import hook_methods
from ccexecd.control.tokens import Tokens, token_methods
from ccexecd.engine import default_shell
from ccexecd.judgement import question
from ccexecd.protocol import messages, operation
from ccexecd.protocol.errors import ErrorCode
from ccexecd.protocol.jsonrpc import RPCError
from ccexecd.service.dispatch import Answer, Kind, Method
from ccexecd.service.methods import EXECUTION_METHODS
from ccexecd.service.peer import Peer
from ccexecd.service.status import status_method

_ANY = "\0"
"""Stands for the value of an environment variable of which only the name is given: no real value can hold NUL."""


class Operated(Protocol):
    """A daemon, as its operator sees it."""

    async def status(self) -> dict[str, Any]:
        """The result of `status` without an execution."""

    def health(self) -> dict[str, Any]:
        """The result of `health`."""

    def configuration(self) -> dict[str, Any]:
        """The configuration in force, and where each value comes from."""

    def reload(self) -> dict[str, Any]:
        """Read the configuration again and use it, whole or not at all; reopen the log.

        Raises:
            ConfigError: the new configuration is not valid; nothing has changed.
        """

    @property
    def tokens(self) -> Tokens:
        """The tokens that admit clients."""

    async def stop(self, drain: float | None, grace: float | None) -> Answer:
        """End the daemon. Returns when all executions have ended.

        Args:
            drain: the param `drain` of `stop`, in seconds.
            grace: the param `grace` of `stop`, in seconds.
        """


def operator_methods(daemon: Operated) -> dict[str, Method]:
    """Name -> method, for everything that the control socket serves."""

    def health(_peer: Peer, _: messages.Nothing) -> dict[str, Any]:
        return daemon.health()

    def config(_peer: Peer, _: messages.Nothing) -> dict[str, Any]:
        return daemon.configuration()

    def version(_peer: Peer, _: messages.Nothing) -> dict[str, Any]:
        return {"version": __version__, "protocol": "ccexec.v1", "python": platform.python_version()}

    def reload(_peer: Peer, _: messages.Nothing) -> dict[str, Any]:
        try:
            return daemon.reload()
        except ConfigError as invalid:
            problems = [
                {"path": problem.key, "error": problem.message, "source": problem.source}
                for problem in invalid.problems
            ]
            text = f"the new configuration is not valid, the old one stays in force:\n{invalid}"
            raise RPCError(ErrorCode.CONFIG_INVALID, text, problems) from None

    def policy(peer: Peer, wanted: operation.Policy) -> dict[str, Any]:
        if wanted.command is None and wanted.argv is None:
            return peer.engine.gate.judge.in_force()
        shell = peer.engine.config.shell or default_shell()
        given = {"cwd": wanted.cwd, "env": dict.fromkeys(wanted.env, _ANY)}
        spec = question(wanted.argv, wanted.command, shell, **given)
        return peer.engine.gate.judge.explain(spec, wanted.principal or peer.principal.name)

    def stop(_peer: Peer, wanted: operation.Stop) -> Awaitable[Answer]:
        return daemon.stop(wanted.drain, wanted.grace)

    return {
        **EXECUTION_METHODS,
        **token_methods(lambda: daemon.tokens),
        **hook_methods(),
        "status": status_method(daemon.status),
        "health": Method(messages.Nothing, health),
        "config": Method(messages.Nothing, config),
        "version": Method(messages.Nothing, version),
        "reload": Method(messages.Nothing, reload),
        "policy": Method(operation.Policy, policy),
        "stop": Method(operation.Stop, stop, Kind.WAITING),
    }
