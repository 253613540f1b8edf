"""`cc_execute` and its companions: what most programs need of this package.

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
    """The options as keyword arguments, and which daemon.

    `client`: an open one (`connect`), for many tasks. Otherwise the task has one of its own, as `connect` describes:
    `url`, `token`, `state_dir`, `control_socket`, `start`, `tls`.
    """

    client: Client | None
    url: str | None
    token: str | None
    state_dir: str | Path | None
    control_socket: str | Path | None
    start: bool
    tls: ssl.SSLContext | None


PLACES = ("url", "token", "state_dir", "control_socket", "start", "tls")


async def cc_execute(task: str, options: AgentOptions | None = None, **given: Unpack[Where]) -> AgentResult:
    """Have an agent do a task, and wait for it.

    Args:
        task: what is to be done.
        options: how; the keyword arguments change some of it.
        **given: each of `AgentOptions`, and which daemon (`Where`).

    Returns:
        What came of it, also when the agent failed or its time was up: `error`, `verdict` and `partial` tell.
        `result.check()` raises instead.

    Raises:
        JsonReplyError: JSON was asked for, and is not what came, not even the second time. It holds the raw text.
        AgentMissingError: the agent's program is not there.
        CtlError: the daemon refused it, or cannot be reached.
    """
    async with opened(given) as client:
        return await TaskRun(client, task, options_of(options, given)).do()


@asynccontextmanager
async def cc_stream(task: str, options: AgentOptions | None = None, **given: Unpack[Where]) -> AsyncIterator[AgentRun]:
    """Follow an agent while it works, event by event: ``async for event in run``.

    One agent, one attempt: `json_mode`, `validation_prompt`, `amend_prompt` and `retries` are for `cc_execute`.
    Leaving it early cancels the agent; `run.result` has what there was, also after a cancellation.

    Args:
        task: what is to be done.
        options: how; the keyword arguments change some of it.
        **given: each of `AgentOptions`, and which daemon (`Where`).

    Raises:
        AgentMissingError: the agent's program is not there.
        CtlError: the daemon refused it, or cannot be reached.
    """
    async with opened(given) as client:
        chosen = options_of(options, given)
        require_fit(task, chosen.prompt_limit)
        async with AgentRun(client, task, chosen) as run:
            yield run


@asynccontextmanager
async def opened(given: Where) -> AsyncIterator[Client]:
    """The client that keyword arguments name; what says so is taken out of them."""
    client = given.pop("client", None)
    where = {name: given.pop(name) for name in PLACES if name in given}  # type: ignore[misc]
    if client is not None:
        yield client
        return
    async with connect(**where) as own:
        yield own
