"""The params of every method, as classes.

Owns names, types and bounds of what a client may send. Must not decide what a value means: that is `core`'s and the
engine's.
"""

from typing import Any, Literal, TypeVar

import attrs

from ccexecd.protocol.codec import UNSAID, Cells, Count, Seconds, StructureError, Text, structure
from ccexecd.protocol.limits import Limits
from ccexecd.protocol.prompts import PromptsRecord, PromptsShow  # noqa: F401  # every class is found here

P = TypeVar("P")

Framing = Literal["lines", "line", "raw"]
OnDisconnect = Literal["auto", "cancel", "detach"]
StreamName = Literal["stdout", "stderr"]
HookEvent = Literal["pre_execute", "post_execute", "on_output", "on_error", "on_stall"]

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
        if (self.command is None) == (self.argv is None):
            raise StructureError([{"path": "$", "error": "exactly one of command and argv is required"}])
        if self.command is not None and not self.command.strip():
            raise StructureError([{"path": "$.command", "error": "must not be empty"}])
        if self.argv is not None and not (self.argv and self.argv[0]):
            raise StructureError([{"path": "$.argv", "error": "must not be empty, nor its first word"}])
        if self.stdio == "file" and (self.pty is not None or self.policy == "block"):
            raise StructureError([{"path": "$.stdio", "error": 'a file goes neither with pty nor with policy "block"'}])
        if self.max_line_bytes is not None and self.max_line_bytes < LEAST_LINE:
            raise StructureError([{"path": "$.max_line_bytes", "error": f"must be {LEAST_LINE} at least"}])
        if self.idempotency_key is not None and not 0 < len(self.idempotency_key) <= MAX_LABEL:
            raise StructureError([{"path": "$.idempotency_key", "error": f"must have 1 to {MAX_LABEL} characters"}])
        if abs(self.priority or 0) > MAX_PRIORITY:
            raise StructureError([{"path": "$.priority", "error": f"must be from -{MAX_PRIORITY} to {MAX_PRIORITY}"}])
        if any(not name or "=" in name for name in self.env):
            raise StructureError([{"path": "$.env", "error": 'a name must not be empty nor hold "="'}])
        if len(self.labels) > MAX_LABELS:
            raise StructureError([{"path": "$.labels", "error": f"must not be more than {MAX_LABELS}"}])
        if any(len(name) > MAX_LABEL or len(value) > MAX_LABEL for name, value in self.labels.items()):
            raise StructureError(
                [{"path": "$.labels", "error": f"a name or value is longer than {MAX_LABEL} characters"}]
            )


@attrs.frozen
class Control:
    """`control`: PAUSE, RESUME, CANCEL, KILL or SIGNAL one execution; the only live one where no id is given."""

    type: Literal["PAUSE", "RESUME", "CANCEL", "KILL", "SIGNAL"]
    execution_id: str | None = None
    signal: str | None = None
    grace: Seconds | None = None
    wait: bool = True

    def __attrs_post_init__(self) -> None:
        if (self.type == "SIGNAL") != (self.signal is not None):
            raise StructureError([{"path": "$.signal", "error": "belongs to type SIGNAL, which needs it"}])


@attrs.frozen
class Held:
    """`release`, `drop`: one execution that is held, or `all` of them that are the caller's."""

    execution_id: str | None = None
    all: bool = False

    def __attrs_post_init__(self) -> None:
        if (self.execution_id is None) != self.all:
            raise StructureError([{"path": "$", "error": "exactly one of execution_id and all is required"}])


@attrs.frozen
class WriteStdin:
    """`write_stdin`: exactly one of `data` (text) and `data_base64`; `write_id` makes a repeat harmless."""

    execution_id: str | None = None
    data: str | None = attrs.field(default=None, repr=False)
    data_base64: str | None = attrs.field(default=None, repr=False)
    write_id: str | None = None

    def __attrs_post_init__(self) -> None:
        if (self.data is None) == (self.data_base64 is None):
            raise StructureError([{"path": "$", "error": "exactly one of data and data_base64 is required"}])
        if self.write_id is not None and len(self.write_id) > MAX_LABEL:
            raise StructureError([{"path": "$.write_id", "error": f"is longer than {MAX_LABEL} characters"}])


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
        if not 0 < self.max_bytes <= MAX_READ:
            raise StructureError([{"path": "$.max_bytes", "error": f"must be from 1 to {MAX_READ}"}])


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
        if self.limit > MAX_LISTED:
            raise StructureError([{"path": "$.limit", "error": f"must be at most {MAX_LISTED}"}])


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
        if self.expect_uuid is not None and not LEAST_UUID <= len(self.expect_uuid) <= MAX_LABEL:
            error = f"must have {LEAST_UUID} to {MAX_LABEL} characters"
            raise StructureError([{"path": "$.expect_uuid", "error": error}])


@attrs.frozen
class Receipt:
    """`receipt`: an execution's receipt with its proof; without an id, the public key."""

    execution_id: str | None = None


@attrs.frozen
class Estimate:
    """`estimate`: how long a command may take; exactly one of `command` and `argv`, as for `execute`."""

    command: Text | None = None
    argv: tuple[Text, ...] | None = None
    cwd: Text | None = None

    def __attrs_post_init__(self) -> None:
        if (self.command is None) == (self.argv is None):
            raise StructureError([{"path": "$", "error": "exactly one of command and argv is required"}])
        if not (self.command or "").strip() and not (self.argv and self.argv[0]):
            raise StructureError([{"path": "$", "error": "the command must not be empty"}])


CategoryName = Literal["agent", "test", "build", "install", "transfer", "check", "script", "shell", "brief", "other"]
"""What sort of work a command is (`core.kinds.Category`)."""

MAX_HISTORY = 10_000
"""Past executions that one `history` may ask for."""


@attrs.frozen
class History:
    """`history`: finished executions with their durations, newest first; `before` goes on where a reply has ended."""

    category: CategoryName | None = None
    program: str | None = None
    reason: str | None = None
    since: Seconds | None = None
    before: Count | None = None
    limit: Count = Count(100)

    def __attrs_post_init__(self) -> None:
        if not 0 < self.limit <= MAX_HISTORY:
            raise StructureError([{"path": "$.limit", "error": f"must be from 1 to {MAX_HISTORY}"}])


@attrs.frozen
class Stats:
    """`stats`: how long what took, in percentiles; `since` is how many seconds to look back."""

    by: Literal["category", "program", "form"] = "program"
    category: CategoryName | None = None
    since: Seconds | None = None


@attrs.frozen
class Policy:
    """`policy`: what may run; with `argv` or `command`, whether that may, and why. `env` are names."""

    command: Text | None = None
    argv: tuple[Text, ...] | None = None
    cwd: Text | None = None
    env: tuple[Text, ...] = ()
    principal: Text | None = None

    def __attrs_post_init__(self) -> None:
        if self.command is not None and self.argv is not None:
            raise StructureError([{"path": "$", "error": "not both of command and argv"}])
        if self.argv is not None and not (self.argv and self.argv[0]):
            raise StructureError([{"path": "$.argv", "error": "must not be empty, nor its first word"}])


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
        if (self.command is None) == (self.argv is None):
            raise StructureError([{"path": "$", "error": "exactly one of command and argv is required"}])
        if self.argv is not None and not (self.argv and self.argv[0]):
            raise StructureError([{"path": "$.argv", "error": "must not be empty, nor its first word"}])


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
        if not (self.argv and self.argv[0]):
            raise StructureError([{"path": "$.argv", "error": "must not be empty, nor its first word"}])


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
        if not self.scopes:
            raise StructureError([{"path": "$.scopes", "error": "must not be empty"}])


@attrs.frozen
class TokenRotate:
    """`token_rotate`: give a token another text."""

    name: Text = Text("default")


@attrs.frozen
class TokenRevoke:
    """`token_revoke`: withdraw a token for good."""

    name: Text


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
