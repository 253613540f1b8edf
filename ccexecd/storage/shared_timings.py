"""How long commands took on other daemons: a stream in a Redis server to which each adds and from which each reads.

Shared of a run are the marks of its command (`core.kinds`: words folded away, digests), its principal's name, its
seconds, whether it came to its end, and the machine's load; never the command. What is read was written by others:
entries that are not as this module writes them are skipped. Everything in here blocks, each wait for `PATIENCE` at
most, and is called in a thread. The client library is imported when it is first needed; without it, or without a server
that answers, the daemon goes on alone.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ccexecd.core.kinds import Category, Kind
from ccexecd.storage.timings import MOST_LEARNT, Timing

STREAM = "ccexecd:timings:1"
"""The stream's key. The number at its end is the version of the entries' format."""

MOST_SHARED = 20_000
"""Entries that the stream keeps, approximately: 5 MiB of the server's memory."""

AT_ONCE = 1000
"""Entries that are read at a time."""

PATIENCE = 2.0
"""Seconds to wait for a connection, and for each answer."""

_LONGEST_TEXT = 256
_LONGEST = 1e9  # seconds
_ALL = 100.0  # per cent
_DIGEST = 16  # characters


_MISUNDERSTOOD = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)
"""What the library or the parsing of an answer may raise, besides RedisError, if the server is no Redis, or broken."""


class SharingError(Exception):
    """Nothing could be shared; the text says why and, if the library is missing, what to do."""


class SharedTimings:
    """The stream, as one daemon uses it.

    Args:
        url: the server's URL.
        password_file: file with a password, or with `user:password`; None for no password.
        directory: the daemon's state directory, which tells it from other daemons on its host.
    """

    def __init__(self, url: str, password_file: Path | None, directory: Path) -> None:
        self._url = url
        self._password_file = password_file
        name = f"{os.uname().nodename}\0{directory}"
        self._daemon = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self._client: Any = None
        self._position: str | None = None

    def exchange(self, ours: Sequence[Timing]) -> list[Timing]:
        """Add runs to the stream, and read what other daemons have added.

        Args:
            ours: runs of this daemon.

        Returns:
            Runs of other daemons since the last call, the oldest first: the newest `MOST_LEARNT` entries at the first
            call, `AT_ONCE` at most at each later one.

        Raises:
            SharingError: the exchange failed; give these runs again next time.
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
        """Close the connection; the next exchange opens another one."""
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
            retry=retry,  # none: the caller tries again later
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
    """The entries in an answer to XREAD on one stream, in either protocol of Redis (RESP2 or RESP3)."""
    if not answer:
        return []
    entries = next(iter(answer.values())) if isinstance(answer, dict) else answer[0][1]
    return entries[0] if isinstance(answer, dict) else entries  # type: ignore[no-any-return]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _timing(fields: Mapping[str, str], daemon: str) -> Timing | None:
    """Parse an entry; None if it is this daemon's own, or not as this module writes it."""
    try:
        if fields["daemon"] == daemon or any(len(value) > _LONGEST_TEXT for value in fields.values()):
            return None
        same, place, seconds, load = fields["same"], fields["place"], float(fields["seconds"]), float(fields["load"])
        if not (len(same) == len(place) == _DIGEST and 0 <= seconds <= _LONGEST and 0 <= load <= _ALL):  # NaN fails too
            return None
        kind = Kind(Category(fields["category"]), fields["program"], fields["form"], same, place)
        return Timing(fields["principal"], kind, seconds, fields["complete"] == "1", load)
    except (KeyError, ValueError):
        return None
