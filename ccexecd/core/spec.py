"""The spec of an execution: all that is fixed before it starts. Owns the record. Must not decide anything."""

from collections.abc import Mapping
from typing import Literal

import attrs

from ccexecd.core.framing import Framing

TimeoutSource = Literal["request", "estimated", "default", "none"]


@attrs.frozen
class Limits:
    """The limits of one execution's tree; None for no limit.

    Attributes:
        memory_bytes: memory; of all processes together if there are control groups, else of each (address space)
            and, checked at intervals, of all together.
        cpu_seconds: processor time of all processes together.
        processes: how many there may be at a time, threads counted where there are control groups.
        open_files: descriptors of each process.
        file_bytes: size of a file that is written.
        nice: nice value of each process, 0 to 19 (nice(2)).
    """

    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    processes: int | None = None
    open_files: int | None = None
    file_bytes: int | None = None
    nice: int | None = None

    def as_set(self) -> dict[str, float]:
        """Return the limits that are set, by name."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)


@attrs.frozen
class TerminalSize:
    """The size of a terminal.

    Attributes:
        cols: characters per line.
        rows: number of lines.
    """

    cols: int
    rows: int


@attrs.frozen
class Once:
    """The idempotency key of a request.

    Attributes:
        key: the key, chosen by the client.
        fingerprint: digest of the params, which tells a repeated request from another one with the same key.
    """

    key: str = attrs.field(repr=False)
    fingerprint: str = attrs.field(repr=False)


@attrs.frozen
class Spec:
    """One command, ready to start.

    Attributes:
        argv: the words, the shell in front where a command string was given.
        display: the command as people read it: the string as it came, or the words quoted.
        shell: whether `display` is a command string that a shell in `argv` interprets.
        cwd: working directory; None for the root.
        env: variables added to the inherited environment. Values are kept out of every repr.
        unset: names of variables removed from the inherited environment.
        timeout: seconds of wall time, pauses not counted; None for no time-out.
        timeout_source: where the time-out comes from: the client, the configuration or an estimate.
        stall_timeout: seconds without a byte on either stream after which it is ended; None for never.
        grace: seconds from TERM to KILL.
        framing: how output is cut into notifications.
        max_line_bytes: bytes of a line that are shown, its line feed not counted; None for all of it.
        policy: what happens when its slowest watcher falls behind: it misses output, or the program waits for it.
        stdin_open: whether the client writes to its standard input; else it is /dev/null.
        stdio: whether its output goes into pipes or into files; `auto` is pipes.
        pty: the size of the terminal that is its standard input, output and error; None if it has pipes.
        on_disconnect: whether it ends with its client's connection (`core.sessions`).
        limits: limits of its tree.
        labels: the client's own names and values.
        leftovers: what happens to processes that outlive its leader: they are ended, or left running.
        stdbuf: whether programs that use C's stdio are to write line by line.
        agent: the kind of agent that it is; `auto` to tell by the program.
        post_result_grace: seconds that an agent may stay after its final result; None for no limit.
        lane: the lane whose line it waits in and whose limit it counts against; empty for none.
        priority: of those that wait, one with a higher priority begins first.
        once: the idempotency key of its request; None without one.
        run_as: the user that it runs as, by a rule of the policy; None for the daemon's own.
    """

    argv: tuple[str, ...]
    display: str
    shell: bool = False
    cwd: str | None = None
    env: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    unset: tuple[str, ...] = ()
    timeout: float | None = None
    timeout_source: TimeoutSource = "none"
    stall_timeout: float | None = None
    grace: float = 10.0
    framing: Framing = "lines"
    max_line_bytes: int | None = None
    policy: Literal["drop_oldest", "block"] = "drop_oldest"
    stdin_open: bool = False
    stdio: Literal["auto", "pipe", "file"] = "auto"
    pty: TerminalSize | None = None
    on_disconnect: Literal["auto", "cancel", "detach"] = "auto"
    limits: Limits = Limits()
    labels: Mapping[str, str] = attrs.field(factory=dict)
    leftovers: Literal["kill", "detach"] = "kill"
    stdbuf: bool = False
    agent: Literal["auto", "claude", "codex", "gemini", "none"] = "auto"
    post_result_grace: float | None = None
    lane: str = ""
    priority: int = 0
    once: Once | None = None
    run_as: str | None = None
