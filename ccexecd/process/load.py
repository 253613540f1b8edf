"""How busy the machine is: its processors and, where there is one, its GPU.

A sampler looks every few seconds, in a thread, and only while somebody keeps it going (`begin`, `end`): an idle daemon
looks at nothing. Between two looks, `busy` is a value in memory. When nobody has looked lately it is the kernel's own
average over the last minute, which it keeps anyway (getloadavg(3)). Must not decide anything by it.
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import trio

from ccexecd.threads import in_thread

INTERVAL = 5.0
"""Seconds between two looks."""

FRESH = 3 * INTERVAL
"""Seconds for which a look counts."""

MOMENT = 0.2
"""Seconds that a look takes when nobody has looked before: the kernel counts processor time in hundredths."""

GPU_PATIENCE = 3.0
"""Seconds that nvidia-smi may take; it takes 0.1, and hangs when its driver does."""

_STAT = Path("/proc/stat")
_IDLE = (3, 4)  # of the fields of its first line: idle, iowait (proc_stat(5))
_COUNTED = 8  # the fields user to steal; the two after them are included in user already
_GPU_COMMAND = ("--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")


class Load:
    """How busy the machine is.

    Args:
        path: where to look for nvidia-smi, as PATH.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._processors = os.cpu_count() or 1
        self._busy = 0.0
        self._looked_at = float("-inf")
        self._counters: tuple[float, float] | None = None  # busy, all
        self._counted_at = float("-inf")
        self._has_gpu = True  # until nvidia-smi is missing or does not answer
        self._users = 0
        self._wanted = trio.Event()
        self._thread = trio.CapacityLimiter(1)

    @property
    def busy(self) -> float:
        """Per cent in use: of all processors together, or of the busiest GPU if that is more."""
        if trio.current_time() - self._looked_at <= FRESH:
            return self._busy
        return min(100.0, round(100.0 * os.getloadavg()[0] / self._processors, 1))

    def begin(self) -> None:
        """Keep sampling from now on, until `end` was called as often as this."""
        self._users += 1
        self._wanted.set()

    def end(self) -> None:
        """Undo one `begin`."""
        self._users -= 1
        if not self._users:
            self._wanted = trio.Event()

    async def run(self) -> None:
        """Sample every `INTERVAL` seconds while `begin` is in effect, until cancelled."""
        while True:
            await self._wanted.wait()
            await self.measure()
            await trio.sleep(INTERVAL)

    async def measure(self) -> None:
        """Take a sample now, unless there is one from the last `INTERVAL` seconds."""
        if trio.current_time() - self._looked_at < INTERVAL:
            return
        if trio.current_time() - self._counted_at > FRESH:
            await self._look()
            await trio.sleep(MOMENT)
        await self._look()

    async def _look(self) -> None:
        try:
            counters = await in_thread(_counters, self._thread)
            gpu = await in_thread(self._ask_gpu, self._thread, abandon_on_cancel=True)
        except (OSError, ValueError):  # no /proc, no thread: what the kernel averages is still there
            return
        earlier, self._counters = self._counters, counters
        self._counted_at = trio.current_time()
        if earlier is None or counters[1] <= earlier[1]:
            return
        used = 100.0 * (counters[0] - earlier[0]) / (counters[1] - earlier[1])
        self._busy, self._looked_at = round(min(max(used, gpu, 0.0), 100.0), 1), self._counted_at

    def _ask_gpu(self) -> float:
        """Return the per cent in use of the busiest GPU; 0 if there is none. Blocks: call it in a thread."""
        program = shutil.which("nvidia-smi", path=self._path) if self._has_gpu else None
        used = _gpu(program) if program is not None else None
        self._has_gpu = used is not None
        return used or 0.0


def _counters() -> tuple[float, float]:
    """Processor time of all processors since the machine was started: used, and total."""
    with _STAT.open("rb") as stream:
        fields = [float(field) for field in stream.readline().split()[1 : _COUNTED + 1]]
    return sum(fields) - sum(fields[index] for index in _IDLE), sum(fields)


def _gpu(program: str) -> float | None:
    """Return what nvidia-smi reports, in per cent; None if it fails, is unreadable or takes over `GPU_PATIENCE`."""
    try:
        asked = subprocess.Popen(  # noqa: S603  # our own words; what it says is looked at
            [program, *_GPU_COMMAND], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return None
    try:
        said, _ = asked.communicate(timeout=GPU_PATIENCE)
        return max(float(line) for line in said.split())
    except subprocess.TimeoutExpired:
        asked.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in its driver: nobody can end it
            asked.wait(timeout=GPU_PATIENCE)
        return None
    except ValueError:  # nothing, or "[N/A]"
        return None
    finally:
        if asked.stdout is not None:
            asked.stdout.close()
