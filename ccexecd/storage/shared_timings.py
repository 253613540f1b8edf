"""How long commands took on other daemons: a stream in a Redis server to which each adds and from which each reads.

What is shared of a run are the marks of its command (`core.kinds`: words folded away, digests), its principal's name
and its seconds; never the command. What comes back was written by others: whatever is not what this module writes is
passed over. Everything in here blocks, for `PATIENCE` at most each time, in a thread of its caller's. The client
library is imported there, when it is first needed; without it, and without a server that answers, the daemon goes on
alone.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ccexecd.core.kinds import Category, Kind
from ccexecd.storage.timings import MOST_LEARNT, Timing

STREAM = "ccexecd:timings:1"
"""The key of the stream. The number is the version of its entries' form."""

MOST_SHARED = 20_000
"""Entries that the stream keeps, about: 5 MiB of the server's memory."""

AT_ONCE = 1000
"""Entries that are read at a time."""

PATIENCE = 2.0
"""Seconds for a connection, and for each answer."""

_LONGEST_TEXT = 256
_LONGEST = 1e9  # seconds
_ALL = 100.0  # per cent
_DIGEST = 16  # characters


_MISUNDERSTOOD = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)
"""What the library, or reading an answer, may raise besides its own errors where a server is no Redis, or not sane."""


class SharingError(Exception):
    """Nothing can be shared now; the text says why, and what to do."""


class SharedTimings:
    """The stream, as one daemon uses it.

    Args:
        url: of the server.
        password_file: holds a password, or a user, a colon and a password; None is none.
        directory: what tells this daemon from others on its host.
    """

    def __init__(self, url: str, password_file: Path | None, directory: Path) -> None:
        self._url = url
        self._password_file = password_file
        name = f"{os.uname().nodename}\0{directory}"
        self._daemon = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self._client: Any = None
        self._position: str | None = None

    def exchange(self, ours: Sequence[Timing]) -> list[Timing]:
        """Add runs of ours, and take those that others have added since the last time, the oldest first.

        Raises:
            SharingError: nothing was shared; ours are to be given again.
        """
        try:
            from redis import Redis, RedisError  # noqa: PLC0415  # few have it
            from redis.backoff import NoBackoff  # noqa: PLC0415
            from redis.retry import Retry  # noqa: PLC0415
        except ImportError:
            raise SharingError("the library is missing: pip install 'ccexecd[redis]'") from None
        try:
            if self._client is None:
                self._client = self._connect(Redis, Retry(NoBackoff(), 0))
            answers = self._talk(ours)
        except (RedisError, *_MISUNDERSTOOD) as error:
            self.close()
            raise SharingError(f"{self._url}: {error}") from error
        return answers

    def close(self) -> None:
        """Let go of the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connect(self, redis: Any, retry: Any) -> Any:
        user, password = None, None
        if self._password_file is not None:
            text = self._password_file.read_text(encoding="utf-8").strip()
            user, colon, behind = text.partition(":")
            user, password = (user, behind) if colon else (None, text)
        return redis.from_url(
            self._url,
            username=user,
            password=password,
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
            retry=retry,  # ours is the next time
        )

    def _talk(self, ours: Sequence[Timing]) -> list[Timing]:
        pipeline = self._client.pipeline(transaction=False)
        for timing in ours:
            pipeline.xadd(STREAM, self._entry(timing), maxlen=MOST_SHARED, approximate=True)
        if self._position is None:
            pipeline.xrevrange(STREAM, count=MOST_LEARNT)
            entries = pipeline.execute()[-1][::-1]
            self._position = "0-0"
        else:
            pipeline.xread({STREAM: self._position}, count=AT_ONCE)
            entries = _of_stream(pipeline.execute()[-1])
        if entries:
            self._position = _text(entries[-1][0])
        return list(self._others(entries))

    def _entry(self, timing: Timing) -> dict[str, str]:
        kind = timing.kind
        return {
            "daemon": self._daemon,
            "principal": timing.principal,
            "category": kind.category.value,
            "program": kind.program,
            "form": kind.form,
            "same": kind.same,
            "place": kind.place,
            "seconds": f"{timing.seconds:.6g}",
            "complete": "1" if timing.is_complete else "0",
            "load": f"{timing.load:.6g}",
        }

    def _others(self, entries: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> Iterable[Timing]:
        for _, fields in entries:
            timing = _timing({_text(name): _text(value) for name, value in fields.items()}, self._daemon)
            if timing is not None:
                yield timing


def _of_stream(answer: Any) -> list[Any]:
    """The entries of the one stream that an XREAD was about, in either protocol of Redis."""
    if not answer:
        return []
    entries = next(iter(answer.values())) if isinstance(answer, dict) else answer[0][1]
    return entries[0] if isinstance(answer, dict) else entries  # type: ignore[no-any-return]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _timing(fields: Mapping[str, str], daemon: str) -> Timing | None:
    """One entry; None if it is our own, or not one at all."""
    try:
        if fields["daemon"] == daemon or any(len(value) > _LONGEST_TEXT for value in fields.values()):
            return None
        same, place, seconds, load = fields["same"], fields["place"], float(fields["seconds"]), float(fields["load"])
        if not (len(same) == len(place) == _DIGEST and 0 <= seconds <= _LONGEST and 0 <= load <= _ALL):  # nan is none
            return None
        kind = Kind(Category(fields["category"]), fields["program"], fields["form"], same, place)
        return Timing(fields["principal"], kind, seconds, fields["complete"] == "1", load)
    except (KeyError, ValueError):
        return None
