"""What one execution is to be: fixed before it starts."""

from collections.abc import Mapping
from typing import Literal

import attrs

from ccexecd.core.framing import Framing

TimeoutSource = Literal["request", "estimated", "default", "none"]


@attrs.frozen
class Limits:
    """What the tree of one execution may use; None is without limit.

    Attributes:
        memory_bytes: memory; of all processes together where there are control groups, else of each (address space)
            and, looked at in intervals, of all together.
        cpu_seconds: processor time of all processes together.
        processes: how many there may be at a time, threads counted where there are control groups.
        open_files: descriptors of each process.
        file_bytes: size of a file that is written.
        nice: how far each process stands back for others, 0 to 19.
    """

    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    processes: int | None = None
    open_files: int | None = None
    file_bytes: int | None = None
    nice: int | None = None

    def as_set(self) -> dict[str, float]:
        """Those that there are, by name."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)


@attrs.frozen
class TerminalSize:
    """How much a terminal shows.

    Attributes:
        cols: characters of a line.
        rows: lines.
    """

    cols: int
    rows: int


@attrs.frozen
class Once:
    """What makes a request, sent again, mean the same execution.

    Attributes:
        key: the client's name for it.
        fingerprint: the same for the same params, and for no others.
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
        cwd: working directory; None is the daemon's.
        env: names added to the daemon's environment. Values are kept out of every repr.
        unset: names removed from it.
        timeout: seconds of wall time, pauses not counted; None is without end.
        timeout_source: who set it.
        stall_timeout: seconds without a byte on either stream after which it is ended; None is never.
        grace: seconds from TERM to KILL.
        framing: how output is cut into notifications.
        max_line_bytes: bytes of a line that are shown, its line feed not counted; None is all of it.
        policy: what happens when its slowest watcher falls behind: it misses output, or the program waits for it.
        stdin_open: whether the client writes to its standard input; else it is /dev/null.
        stdio: whether its output goes into pipes or into files; `auto` is pipes.
        pty: the size of the terminal that is its standard input, output and error; None is none: it has pipes.
        on_disconnect: what the loss of the client means for it.
        limits: what it may use.
        labels: the client's own marks.
        leftovers: what happens to processes that outlive its leader: they are ended, or left running.
        stdbuf: whether programs that use C's stdio are to write line by line.
        agent: whose output it is, for whoever reads its final result in it; `auto` tells by the program.
        post_result_grace: seconds that an agent may stay after its final result; None is as long as it likes.
        lane: which line it waits in, and whose limit it counts against; empty is none.
        priority: who waits with a higher one begins first.
        once: by what a repeat of its request is known; None is not at all.
        run_as: the user that it runs as, by a rule of the policy; None is the daemon's own.
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
