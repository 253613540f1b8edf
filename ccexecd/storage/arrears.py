"""Output that could not be written when it was read, and is written later.

Owns what is missing in the files of one log, and the order in which it is made up: whole entries when the journal takes
them, then the half line after them, so that a file never has a hole that would look like output. Must not decide when
it is made up: the log does.
"""

from collections.abc import Mapping, Sequence

from ccexecd.core.entries import Chunk, Entry, Gap, Stream
from ccexecd.storage.log_files import LogFiles, put

MADE_UP_BYTES = 1024 * 1024
"""Bytes of missing output that one step writes: about a millisecond's work."""


class Arrears:
    """What is missing in the files of one log.

    Args:
        files: the files of that log.

    Attributes:
        sound_from: for each stream, the offset from which on its file holds everything that was read.
        last_reads: for each stream, the last read that could not be written; usually empty.
    """

    def __init__(self, files: LogFiles) -> None:
        self.sound_from: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self.last_reads: dict[Stream, bytes] = {}
        self._files = files

    def miss(self, stream: Stream, received: bytes, end: int) -> None:
        """Note a read that could not be written.

        Args:
            stream: the stream it came from.
            received: the bytes.
            end: the stream's offset behind them, which is where its output ends now.
        """
        self.sound_from[stream] = end
        self.last_reads[stream] = received

    def make_up(self, entries: Sequence[Entry | Gap]) -> Sequence[Entry | Gap]:
        """Write to the streams' files the output of these entries that is missing there.

        Args:
            entries: the entries that follow in the journal.

        Returns:
            The leading ones that are complete now; it stops after `MADE_UP_BYTES` of missing output.

        Raises:
            OSError: the output still cannot be written.
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
        """Write each stream's output behind its last entry, such as half a line, if the last read holds all of it.

        Args:
            recorded: for each stream, the offset where the output of its last entry ends.
            ends: for each stream, the offset where its output ends.

        Raises:
            OSError: the output cannot be written.
        """
        for stream, read in list(self.last_reads.items()):
            half = ends[stream] - recorded[stream]
            if half <= len(read):
                put(self._files.of(stream), read[len(read) - half :], recorded[stream])
                self.sound_from[stream] = recorded[stream]
                del self.last_reads[stream]
