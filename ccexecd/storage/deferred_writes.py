"""Deferred writes: output that could not be written to disk when it was read, and is written later.

Owns what is missing in the files of one log, and the order in which it is written: whole entries when the journal takes
them, then the incomplete line after them, so that a file never has a hole that would look like output. Must not decide
when that happens: the log does.
"""

from collections.abc import Mapping, Sequence

from ccexecd.core.entries import Chunk, Entry, Gap, Stream
from ccexecd.storage.log_files import LogFiles, put

STEP_BYTES = 1024 * 1024
"""Bytes of missing output that one step writes: about a millisecond's work."""


class DeferredWrites:
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

    def defer(self, stream: Stream, received: bytes, end: int) -> None:
        """Note a read that was not written: the disk fails, or output before it is missing.

        Args:
            stream: the stream it came from.
            received: the bytes.
            end: the stream's offset behind them, which is where its output ends now.
        """
        self.sound_from[stream] = end
        self.last_reads[stream] = received

    def write_entries(self, entries: Sequence[Entry | Gap]) -> Sequence[Entry | Gap]:
        """Write to the streams' files the output of these entries that is missing there.

        Args:
            entries: the entries that follow in the journal.

        Returns:
            The leading ones that are complete now; it stops after `STEP_BYTES` of missing output.

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
                if size >= STEP_BYTES:
                    break
        for stream, chunks in missing.items():  # they follow each other
            put(self._files.of(stream), b"".join(chunk.piece.text for chunk in chunks), chunks[0].offset)
        return taken

    def write_incomplete_lines(self, recorded: Mapping[Stream, int], ends: Mapping[Stream, int]) -> None:
        """Write each stream's output behind its last entry, an incomplete line, if the last read holds all of it.

        Args:
            recorded: for each stream, the offset where the output of its last entry ends.
            ends: for each stream, the offset where its output ends.

        Raises:
            OSError: the output cannot be written.
        """
        for stream, read in list(self.last_reads.items()):
            size = ends[stream] - recorded[stream]
            if size <= len(read):
                put(self._files.of(stream), read[len(read) - size :], recorded[stream])
                self.sound_from[stream] = recorded[stream]
                del self.last_reads[stream]
