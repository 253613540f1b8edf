"""The params of every method, as classes.

Owns names, types and bounds of what a client may send about executions and sessions; the params of other methods are in
modules of their own (`operation`, `prompts`, `timings`), and are found here, too. Must not decide what a value
means: that is up to `core` and the engine.
"""

from typing import Any, Literal, TypeVar

import attrs

from ccexecd.protocol.checks import require, require_command
from ccexecd.protocol.codec import UNSAID, Cells, Count, Seconds, StructureError, Text, structure
from ccexecd.protocol.limits import Limits
from ccexecd.protocol.operation import (  # noqa: F401  # every class is found here
    HookRun,
    HookTest,
    Policy,
    Stop,
    TokenAdd,
    TokenRevoke,
    TokenRotate,
)
from ccexecd.protocol.prompts import PromptsRecord, PromptsShow  # noqa: F401
from ccexecd.protocol.timings import Estimate, History, Stats  # noqa: F401

P = TypeVar("P")

Framing = Literal["lines", "line", "raw"]
OnDisconnect = Literal["auto", "cancel", "detach"]
StreamName = Literal["stdout", "stderr"]

MAX_LABELS = 64
"""Labels of one execution."""

MAX_LABEL = 1024
"""Characters of a label's name, and of its value: all of them fit into one frame of `status`."""

MAX_PRIORITY = 1000
"""How far `priority` may be from 0, up or down."""

LEAST_UUID = 8
"""Characters of what a reply must repeat, at least: less could be there by chance."""

LEAST_LINE = 4
"""Bytes that `max_line_bytes` is at least: those of the longest code point."""

MAX_LISTED = 10_000
"""Executions that one `list` may ask for: several times as many as one reply can hold."""

MAX_READ = 16 * 1024 * 1024
"""Bytes of output that one `read_output` may ask for."""


@attrs.frozen
class TerminalSize:
    """`pty` of `execute`."""

    cols: Cells
    rows: Cells


@attrs.frozen
class Execute:
    """`execute`: exactly one of `command` (run by the shell) and `argv` (run as it is)."""

    command: Text | None = None
    argv: tuple[Text, ...] | None = None
    timeout: Seconds | None = UNSAID
    estimate_timeout: bool | None = None
    stall_timeout: Seconds | None = None
    grace: Seconds | None = None
    cwd: Text | None = None
    env: dict[Text, Text] = attrs.field(factory=dict, repr=False)  # values may be secrets
    unset: tuple[Text, ...] = ()
    stdin: Literal["closed", "open"] = "closed"
    on_disconnect: OnDisconnect = "auto"
    policy: Literal["drop_oldest", "block"] = "drop_oldest"
    framing: Framing | None = None
    labels: dict[str, str] = attrs.field(factory=dict)
    limits: Limits | None = None
    leftovers: Literal["kill", "detach"] | None = None
    stdbuf: bool = False
    agent: Literal["auto", "claude", "codex", "gemini", "none"] = "auto"
    post_result_grace: Seconds | None = None
    pty: TerminalSize | None = None
    stdio: Literal["pipe", "file"] | None = None
    max_line_bytes: Count | None = None
    idempotency_key: Text | None = attrs.field(default=None, repr=False)
    lane: Text | None = None
    priority: int | None = None

    def __attrs_post_init__(self) -> None:
        require_command(self.command, self.argv)
        is_file_alone = self.stdio != "file" or (self.pty is None and self.policy != "block")
        require(is_file_alone, "$.stdio", 'a file goes neither with pty nor with policy "block"')
        is_long_enough = self.max_line_bytes is None or self.max_line_bytes >= LEAST_LINE
        require(is_long_enough, "$.max_line_bytes", f"must be {LEAST_LINE} at least")
        has_valid_key = self.idempotency_key is None or 0 < len(self.idempotency_key) <= MAX_LABEL
        require(has_valid_key, "$.idempotency_key", f"must have 1 to {MAX_LABEL} characters")
        is_valid_priority = abs(self.priority or 0) <= MAX_PRIORITY
        require(is_valid_priority, "$.priority", f"must be from -{MAX_PRIORITY} to {MAX_PRIORITY}")
        names_are_valid = all(name and "=" not in name for name in self.env)
        require(names_are_valid, "$.env", 'a name must not be empty nor hold "="')
        require(len(self.labels) <= MAX_LABELS, "$.labels", f"must not be more than {MAX_LABELS}")
        longest = max((len(text) for label in self.labels.items() for text in label), default=0)
        require(longest <= MAX_LABEL, "$.labels", f"a name or value is longer than {MAX_LABEL} characters")


@attrs.frozen
class Control:
    """`control`: PAUSE, RESUME, CANCEL, KILL or SIGNAL one execution; the only live one where no id is given."""

    type: Literal["PAUSE", "RESUME", "CANCEL", "KILL", "SIGNAL"]
    execution_id: str | None = None
    signal: str | None = None
    grace: Seconds | None = None
    wait: bool = True

    def __attrs_post_init__(self) -> None:
        belongs_together = (self.type == "SIGNAL") == (self.signal is not None)
        require(belongs_together, "$.signal", "belongs to type SIGNAL, which needs it")


@attrs.frozen
class Held:
    """`release`, `drop`: one execution that is held, or `all` of them that are the caller's."""

    execution_id: str | None = None
    all: bool = False

    def __attrs_post_init__(self) -> None:
        require((self.execution_id is None) == self.all, "$", "exactly one of execution_id and all is required")


@attrs.frozen
class WriteStdin:
    """`write_stdin`: exactly one of `data` (text) and `data_base64`; `write_id` makes a repeat harmless."""

    execution_id: str | None = None
    data: str | None = attrs.field(default=None, repr=False)
    data_base64: str | None = attrs.field(default=None, repr=False)
    write_id: str | None = None

    def __attrs_post_init__(self) -> None:
        has_one = (self.data is None) != (self.data_base64 is None)
        require(has_one, "$", "exactly one of data and data_base64 is required")
        require(len(self.write_id or "") <= MAX_LABEL, "$.write_id", f"is longer than {MAX_LABEL} characters")


@attrs.frozen
class ResizePty:
    """`resize_pty`: a terminal has another size."""

    cols: Cells
    rows: Cells
    execution_id: str | None = None


@attrs.frozen
class Which:
    """A method about one execution: `close_stdin`, `detach`."""

    execution_id: str | None = None


@attrs.frozen
class Attach:
    """`attach`: watch from position `from_seq` (0 = from the start, null = only what comes)."""

    execution_id: str
    from_seq: Count | None = None


@attrs.frozen
class ReadOutput:
    """`read_output`: the same output, pulled; `wait_s` waits that long for something to come."""

    execution_id: str
    from_seq: Count = Count(0)
    max_bytes: Count = Count(1 << 20)
    wait_s: Seconds = Seconds(0.0)
    streams: tuple[StreamName, ...] = ("stdout", "stderr")

    def __attrs_post_init__(self) -> None:
        require(0 < self.max_bytes <= MAX_READ, "$.max_bytes", f"must be from 1 to {MAX_READ}")


@attrs.frozen
class Wait:
    """`wait`: until it has finished, `timeout` seconds at most (null = as long as it takes)."""

    execution_id: str
    timeout: Seconds | None = None


@attrs.frozen
class Status:
    """`status`: one execution, or, without an id, the daemon."""

    execution_id: str | None = None


@attrs.frozen
class List:
    """`list`: executions, newest first; `resources` adds what each uses, `tree` also its processes."""

    state: Literal["HELD", "QUEUED", "STARTING", "RUNNING", "PAUSED", "TERMINATING", "FINISHED", "live"] | None = None
    label: str | None = None
    session: str | None = None
    limit: Count = Count(1000)
    resources: bool = False
    tree: bool = False

    def __attrs_post_init__(self) -> None:
        require(self.limit <= MAX_LISTED, "$.limit", f"must be at most {MAX_LISTED}")


@attrs.frozen
class ResumeSession:
    """`resume_session`: take a session over, proven by its token."""

    session_id: str
    resume_token: str = attrs.field(repr=False)


@attrs.frozen
class Verify:
    """`verify`, `prompts_count`: whether it happened as its receipt says; `expect_uuid` is what a reply must repeat."""

    execution_id: str
    expect_uuid: Text | None = None

    def __attrs_post_init__(self) -> None:
        is_valid = self.expect_uuid is None or LEAST_UUID <= len(self.expect_uuid) <= MAX_LABEL
        require(is_valid, "$.expect_uuid", f"must have {LEAST_UUID} to {MAX_LABEL} characters")


@attrs.frozen
class Receipt:
    """`receipt`: an execution's receipt with its proof; without an id, the public key."""

    execution_id: str | None = None


@attrs.frozen
class Nothing:
    """A method without params."""


def params(value: Any, cls: type[P], *, lenient: bool = False) -> P:
    """Structure one call's params.

    Args:
        value: as parsed; absent params are an empty object.
        cls: one of this module's classes.
        lenient: unknown fields pass unread, as clients without a subprotocol expect.

    Raises:
        StructureError: everything that is wrong, with paths.
    """
    if isinstance(value, list):
        raise StructureError([{"path": "$", "error": "params are named: expected object, got array"}])
    return structure({} if value is None else value, cls, ignore_unknown=lenient)
