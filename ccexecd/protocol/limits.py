"""What an execution may be limited to: the params of `limits`.

Owns the bounds of each. Must not know how a limit is enforced.
"""

import attrs

from ccexecd.protocol.codec import Count, Seconds, StructureError

LIMITS = {
    "memory_bytes": (1 << 20, 1 << 60),
    "cpu_seconds": (0.01, 1e9),
    "processes": (1, 1 << 22),
    "open_files": (3, 1 << 30),
    "file_bytes": (0, 1 << 60),
    "nice": (0, 19),
}
"""The least and the most of each limit: at least what any program needs to start, at most what the kernel can count."""


@attrs.frozen
class Limits:
    """What an execution may use: its whole tree, or each of its processes, as docs/protocol.md says."""

    memory_bytes: Count | None = None
    cpu_seconds: Seconds | None = None
    processes: Count | None = None
    open_files: Count | None = None
    file_bytes: Count | None = None
    nice: Count | None = None

    def __attrs_post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise StructureError([{"path": f"$.{name}", "error": f"must be from {least} to {most}"}])
