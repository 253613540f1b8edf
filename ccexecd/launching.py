"""Turns an execution into a request to the keeper: the words, and the environment.

Owns the environment that programs inherit, and what is added and removed for each. Must not start anything.
"""

import os
from collections.abc import Mapping

import attrs

from ccexecd.agents.recognition import agent_of
from ccexecd.config import Config
from ccexecd.core.shells import is_plain
from ccexecd.core.spec import Spec
from ccexecd.process.execution import Execution
from ccexecd.process.files import can_watch
from ccexecd.process.leader import Launch, user_of
from ccexecd.process.line_buffering import PRELOAD, LineBuffering
from ccexecd.process.pump import Pump
from ccexecd.process.shells import argv_of

REMOVED_WHEN_EMPTY = ("ANTHROPIC_API_KEY",)
"""Names that must not be passed on empty: an empty key makes Claude Code wait for ever."""

TERMINAL_KIND = "xterm-256color"
"""TERM of a program on a terminal if neither the client nor the daemon's environment sets it."""


class Launching:
    """How executions of one daemon are launched.

    Args:
        inherited: the environment that programs inherit.
    """

    def __init__(self, inherited: Mapping[str, str]) -> None:
        self._inherited = inherited
        self._is_plain = is_plain(inherited)

    def launch(self, execution: Execution, config: Config, line_buffering: LineBuffering) -> Launch:
        """Return the request for an execution's leader. Its environment is the inherited one with the client's changes.

        Args:
            execution: the execution to start.
            config: the configuration in force.
            line_buffering: the environment variables of `stdbuf`.
        """
        spec = execution.spec
        removed = {*config.unset_environment, *spec.unset}
        where = {"PWD": os.path.join("/", spec.cwd or "")}  # noqa: PTH118  # the inherited PWD is the daemon's
        added = {**where, **spec.env, "CCEXEC_SESSION_ID": execution.session_id, "CCEXEC_EXECUTION_ID": execution.id}
        if spec.pty is not None and not added.get("TERM", self._inherited.get("TERM")):
            added["TERM"] = TERMINAL_KIND
        for name in REMOVED_WHEN_EMPTY:
            if not added.get(name, self._inherited.get(name)):
                removed.add(name)
        if spec.stdbuf:
            preloaded = None if PRELOAD in removed else added.get(PRELOAD, self._inherited.get(PRELOAD))
            names = line_buffering.names(preloaded)
            added, removed = {**added, **names}, removed - names.keys()
        user = user_of(spec.run_as) if spec.run_as is not None else None
        if user is not None:
            added, removed = {**added, **user.names()}, removed - user.names().keys()
        argv = spec.argv
        if spec.shell and config.shell is None and self._is_plain and is_plain(spec.env):
            path = None if "PATH" in removed else added.get("PATH", self._inherited.get("PATH"))
            argv = argv_of(spec.display, path or os.defpath)
        return Launch(argv, spec.cwd, added, spec.grace, tuple(removed), spec.limits.as_set(), user=user)


def with_stdio(spec: Spec, pump: Pump) -> Spec:
    """Decide `stdio: "auto"`: files for agents that exit before a pipe has taken all output, else as it is.

    Args:
        spec: what is to be run.
        pump: reads the output; where it cannot read files, an agent writes into a pipe rather than not at all.
    """
    if spec.stdio != "auto" or spec.pty is not None or spec.policy == "block":
        return spec
    agent = agent_of(spec)
    is_to_be = agent is not None and agent.loses_its_end and can_watch(pump)
    return attrs.evolve(spec, stdio="file") if is_to_be else spec
