"""`cc_execute` and `cc_stream`: what most programs need of this package.

Owns the entry points for event loops; those for synchronous code are in `sync`.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Unpack

from ccexecctl.api.client import Client, connect
from ccexecctl.api.options import AgentOptions, Given, options_of
from ccexecctl.api.prompts import require_fit
from ccexecctl.api.results import AgentResult
from ccexecctl.api.run import AgentRun
from ccexecctl.api.task import TaskRun


class Where(Given, total=False):
    """Keyword arguments: the fields of `AgentOptions`, and which daemon to use.

    `client` is an open client (`connect`), for many tasks. Without it, a task opens a client of its own with the
    arguments of `connect`: `url`, `token`, `state_dir`, `control_socket`, `start`, `tls`.
    """

    client: Client | None
    url: str | None
    token: str | None
    state_dir: str | Path | None
    control_socket: str | Path | None
    start: bool
    tls: ssl.SSLContext | None


PLACES = ("url", "token", "state_dir", "control_socket", "start", "tls")
"""Keyword arguments that are passed on to `connect`."""


async def cc_execute(task: str, options: AgentOptions | None = None, **given: Unpack[Where]) -> AgentResult:
    """Have an agent do a task, and wait for it.

    Args:
        task: what is to be done.
        options: how it is to be done; None for the defaults.
        **given: fields of `AgentOptions` that replace those of `options`, and which daemon to use (`Where`).

    Returns:
        The result, also if the agent failed or timed out: `error`, `verdict` and `partial` tell. `result.check()`
        raises an exception for a failure.

    Raises:
        JsonReplyError: JSON was asked for, and neither the first reply nor the second is JSON that conforms.
        AgentMissingError: the daemon cannot start the agent's program, usually since it is not installed.
        UsageError: the task is empty or too long, or the options do not go together.
        CtlError: the daemon refused the execution, or cannot be reached.
    """
    async with opened(given) as client:
        return await TaskRun(client, task, options_of(options, given)).do()


@asynccontextmanager
async def cc_stream(task: str, options: AgentOptions | None = None, **given: Unpack[Where]) -> AsyncIterator[AgentRun]:
    """Follow an agent while it works, event by event: ``async for event in run``.

    The agent is started once, with the task as it is: `json_mode`, `json_schema`, `validation_prompt`, `amend_prompt`,
    `expect_uuid` and `retries` have an effect in `cc_execute` only. Leaving the context early cancels the agent;
    `run.result` then holds what it has reported.

    Args:
        task: what is to be done.
        options: how it is to be done; None for the defaults.
        **given: fields of `AgentOptions` that replace those of `options`, and which daemon to use (`Where`).

    Yields:
        The run, an asynchronous iterator over the agent's events.

    Raises:
        AgentMissingError: the daemon cannot start the agent's program, usually since it is not installed.
        UsageError: the task is empty or too long, or the options do not go together.
        CtlError: the daemon refused the execution, or cannot be reached.
    """
    async with opened(given) as client:
        chosen = options_of(options, given)
        require_fit(task, chosen.prompt_limit)
        async with AgentRun(client, task, chosen) as run:
            yield run


@asynccontextmanager
async def opened(given: Where) -> AsyncIterator[Client]:
    """Open the client that keyword arguments name, and remove those arguments from `given`.

    An open client that was passed as `client` is used as it is, and stays open.
    """
    client = given.pop("client", None)
    where = {name: given.pop(name) for name in PLACES if name in given}  # type: ignore[misc]
    if client is not None:
        yield client
        return
    async with connect(**where) as own:
        yield own
