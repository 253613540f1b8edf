"""Output that could not be written when it was read, and is written later.

Owns what is missing in the files of one log, and the order in which it is made up: whole entries when the journal takes
them, and then the half line after them, so that a file never has a hole that would look like output. Must not decide
when that is.
"""

from collections.abc import Mapping, Sequence

from ccexecd.core.entries import Chunk, Entry, Gap, Stream
from ccexecd.storage.log_files import LogFiles, put

MADE_UP_BYTES = 1024 * 1024
"""Bytes that one step writes at most: a millisecond's work."""


class Arrears:
    """What is missing in the files of one log.

    Args:
        files: of the log.

    Attributes:
        sound_from: by stream, the place from which on its file has what was read.
        last_reads: by stream, the last read that was not written; empty as a rule.
    """

    def __init__(self, files: LogFiles) -> None:
        self.sound_from: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self.last_reads: dict[Stream, bytes] = {}
        self._files = files

    def miss(self, stream: Stream, received: bytes, end: int) -> None:
        """What a read brought has not been written; the stream's output ends with it."""
        self.sound_from[stream] = end
        self.last_reads[stream] = received

    def make_up(self, entries: Sequence[Entry | Gap]) -> Sequence[Entry | Gap]:
        """Write what is missing of entries. Returns the first ones, up to `MADE_UP_BYTES` of that.

        Raises:
            OSError: it cannot be written now either.
        """
        missing: dict[Stream, list[Chunk]] = {}
        taken: list[Entry | Gap] = []
        size = 0
        for entry in entries:
            taken.append(entry)
            if isinstance(entry, Chunk) and entry.offset < self.sound_from[entry.stream]:
                missing.setdefault(entry.stream, []).append(entry)
                size += len(entry.piece.text)
                if size >= MADE_UP_BYTES:
                    break
        for stream, chunks in missing.items():  # they follow each other
            put(self._files.of(stream), b"".join(chunk.piece.text for chunk in chunks), chunks[0].offset)
        return taken

    def make_up_halves(self, recorded: Mapping[Stream, int], ends: Mapping[Stream, int]) -> None:
        """Write what no entry stands for yet, if the last read has all of that: as under bulk output.

        Args:
            recorded: by stream, up to where entries stand for its output.
            ends: by stream, where its output ends.

        Raises:
            OSError: it cannot be written.
        """
        for stream, read in list(self.last_reads.items()):
            half = ends[stream] - recorded[stream]
            if half <= len(read):
                put(self._files.of(stream), read[len(read) - half :], recorded[stream])
                self.sound_from[stream] = recorded[stream]
                del self.last_reads[stream]
