"""Agents from Python: tasks for Claude Code and others, run by ccexecd, with results that can be trusted.

Works in Trio, in asyncio, and without an event loop:

    from ccexecctl.api import cc_execute              # result = await cc_execute("What is 2+2?")
    from ccexecctl.api import cc_execute_sync         # result = cc_execute_sync("What is 2+2?")

docs/python.md shows all of it. Owns the public names; what is not among them may change.
"""

from ccexecctl.api.backoff import Backoff
from ccexecctl.api.client import Client, Started, connect
from ccexecctl.api.execute import cc_execute, cc_stream
from ccexecctl.api.options import AgentOptions, Kind, Progress, Retries
from ccexecctl.api.results import (
    AgentError,
    AgentResult,
    InterruptedTaskError,
    JsonReplyError,
    Usage,
    Validation,
)
from ccexecctl.api.run import AgentMissingError, AgentRun
from ccexecctl.api.sync import cc_execute_list_sync, cc_execute_sync, cc_stream_sync
from ccexecctl.api.task_list import ListResult, Task, TaskResult, cc_execute_list
from ccexecctl.errors import CtlError, NotPermittedError, NotRunningError, RefusedError, UnreachableError, UsageError

__all__ = [
    "AgentError",
    "AgentMissingError",
    "AgentOptions",
    "AgentResult",
    "AgentRun",
    "Backoff",
    "Client",
    "CtlError",
    "InterruptedTaskError",
    "JsonReplyError",
    "Kind",
    "ListResult",
    "NotPermittedError",
    "NotRunningError",
    "Progress",
    "RefusedError",
    "Retries",
    "Started",
    "Task",
    "TaskResult",
    "UnreachableError",
    "Usage",
    "UsageError",
    "Validation",
    "cc_execute",
    "cc_execute_list",
    "cc_execute_list_sync",
    "cc_execute_sync",
    "cc_stream",
    "cc_stream_sync",
    "connect",
]
