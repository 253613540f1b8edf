"""What the machine lets a daemon have, descriptors and processes, and how many executions may run on that.

Owns our limit of descriptors, which is raised as far as the administrator allows, and the arithmetic. What we start is
not to inherit that: programs that use select(2), or close every descriptor they might have, expect the usual limit.
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
"""Processes that an execution is taken to have, with threads, as the kernel counts: an agent and what it runs."""

RESERVED = 64
"""Descriptors of the daemon itself: sockets, logs, the history, the keeper, and the output of the past that is read."""

CONNECTION_DESCRIPTORS = 2
"""Descriptors of a client's connection; with TLS, one more."""

MOST_DESCRIPTORS = 1 << 20
"""What is asked for where there is no limit: the kernel's own for one process (fs.nr_open)."""

MOST_RUNNING = 10_000
"""Executions that run at the same time, at most, where nobody says: more than any machine that is to stay usable."""


@attrs.frozen
class Budget:
    """What there is.

    Attributes:
        descriptors: that we may have open.
        processes: that may be there; None is without limit.
        inherited: the limit of descriptors, soft and hard, that we were started with; what we start gets it.
    """

    descriptors: int
    processes: int | None
    inherited: tuple[int, int]

    def fitted(self, config: Config) -> Config:
        """A configuration under which connections take half of the descriptors at most: the rest is for executions."""
        most = max(1, self.descriptors // 2 // CONNECTION_DESCRIPTORS)
        return attrs.evolve(config, max_connections=min(config.max_connections, most))

    def executions(self, connections: int) -> int:
        """How many executions may run at the same time, beside so many connections: one at least."""
        reserved = min(RESERVED + CONNECTION_DESCRIPTORS * connections, self.descriptors // 2)
        by_descriptors = (self.descriptors - reserved) // DESCRIPTORS_EACH
        by_processes = MOST_RUNNING if self.processes is None else self.processes // PROCESSES_EACH
        return max(1, min(by_descriptors, by_processes, MOST_RUNNING))


def look() -> Budget:
    """See what there is, and change nothing."""
    inherited = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Budget(_finite(inherited[0]) or MOST_DESCRIPTORS, _processes(), inherited)


def claim() -> Budget:
    """Raise our limit of descriptors as far as it goes, and see what there is then."""
    inherited = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(_finite(inherited[1]) or MOST_DESCRIPTORS, MOST_DESCRIPTORS)
    if _finite(inherited[0]) is not None and inherited[0] < wanted:
        with contextlib.suppress(OSError, ValueError):  # what cannot be raised stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, inherited[1]))
    return attrs.evolve(look(), inherited=inherited)


def _processes() -> int | None:
    """The least of the limits of processes that apply to us. Root is exempt from that of a user."""
    of_user = None if os.geteuid() == 0 else _finite(resource.getrlimit(resource.RLIMIT_NPROC)[0])
    limits = [of_user, _number_in(Path("/proc/sys/kernel/pid_max")), *map(_number_in, _control_groups())]
    return min((limit for limit in limits if limit is not None), default=None)


def _control_groups() -> list[Path]:
    """The files with the limits of processes of our control group, and of those above it."""
    try:
        line = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group = Path("/sys/fs/cgroup") / line.removeprefix("0::").strip("/")
    return [each / "pids.max" for each in (group, *group.parents) if each.is_relative_to("/sys/fs/cgroup")]


def _number_in(file: Path) -> int | None:
    """The number that a file holds; None for `max`, and where there is no such file."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _finite(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit
