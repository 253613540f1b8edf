"""The descriptors and processes that the machine grants the daemon, and how many executions fit into them.

Owns the daemon's limit of descriptors, which is raised to the hard limit, and the arithmetic. Programs that the daemon
starts get the original limit: those that use select(2), or close all possible descriptors, expect it. Must not start
anything.
"""

import contextlib
import os
import resource
from pathlib import Path

import attrs

from ccexecd.keys import Config

DESCRIPTORS_EACH = 8
"""Descriptors of an execution: its output and its errors, its input, three files of its log, and what a start or a
watcher that reads from disk needs for a while."""

PROCESSES_EACH = 8
"""Processes of an execution, an estimate: those of an agent and its tools; threads count as processes, as for the
kernel."""

RESERVED = 64
"""Descriptors of the daemon itself: sockets, logs, the history, the keeper, and the output of the past that is read."""

CONNECTION_DESCRIPTORS = 2
"""Descriptors of a client's connection; with TLS, one more."""

MOST_DESCRIPTORS = 1 << 20
"""Limit of descriptors that is set where the hard limit is infinite: the kernel's default of fs.nr_open."""

MOST_RUNNING = 10_000
"""Most executions at the same time where `max_running` is not set: more than a machine bears that is to stay usable."""


@attrs.frozen
class Budget:
    """The daemon's limits.

    Attributes:
        descriptors: how many the daemon may have open.
        processes: how many there may be on the machine, for the user and in the control group; None for no limit.
        inherited: soft and hard limit of descriptors that the daemon was started with; programs that it starts get it.
    """

    descriptors: int
    processes: int | None
    inherited: tuple[int, int]

    def fitted(self, config: Config) -> Config:
        """Return a configuration with `max_connections` lowered so that they take half of the descriptors at most."""
        each = CONNECTION_DESCRIPTORS + (config.certfile is not None)
        most = max(1, self.descriptors // 2 // each)
        return attrs.evolve(config, max_connections=min(config.max_connections, most))

    def executions(self, connections: int) -> int:
        """Return how many executions may run at the same time beside so many connections; at least one."""
        reserved = min(RESERVED + CONNECTION_DESCRIPTORS * connections, self.descriptors // 2)
        by_descriptors = (self.descriptors - reserved) // DESCRIPTORS_EACH
        by_processes = MOST_RUNNING if self.processes is None else self.processes // PROCESSES_EACH
        return max(1, min(by_descriptors, by_processes, MOST_RUNNING))


def look() -> Budget:
    """Read the limits, and change nothing."""
    inherited = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Budget(_finite(inherited[0]) or MOST_DESCRIPTORS, _processes(), inherited)


def claim() -> Budget:
    """Raise the daemon's limit of descriptors to its hard limit, then read the limits."""
    inherited = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(_finite(inherited[1]) or MOST_DESCRIPTORS, MOST_DESCRIPTORS)
    if _finite(inherited[0]) is not None and inherited[0] < wanted:
        with contextlib.suppress(OSError, ValueError):  # what cannot be raised stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, inherited[1]))
    return attrs.evolve(look(), inherited=inherited)


def _processes() -> int | None:
    """Return the lowest limit of processes that applies to us; RLIMIT_NPROC does not apply to root."""
    of_user = None if os.geteuid() == 0 else _finite(resource.getrlimit(resource.RLIMIT_NPROC)[0])
    limits = [of_user, _number_in(Path("/proc/sys/kernel/pid_max")), *map(_number_in, _control_groups())]
    return min((limit for limit in limits if limit is not None), default=None)


def _control_groups() -> list[Path]:
    """Return the files `pids.max` of our control group and of those above it."""
    try:
        line = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group = Path("/sys/fs/cgroup") / line.removeprefix("0::").strip("/")
    return [each / "pids.max" for each in (group, *group.parents) if each.is_relative_to("/sys/fs/cgroup")]


def _number_in(file: Path) -> int | None:
    """Read a number from a file; None for `max`, and if there is no such file."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _finite(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit
