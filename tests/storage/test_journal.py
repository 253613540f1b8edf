"""The journal's format, and how an entry is found in it."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccexecd.core.entries import Chunk, Gap, Note
from ccexecd.core.framing import Piece
from ccexecd.storage import journal
from ccexecd.storage.journal import Account, JournalError, Place

ENTRIES = st.lists(
    st.one_of(
        st.integers(1, 5).map(lambda count: Chunk(0, count, "stdout", 7, Piece(b"x" * count, count))),
        st.integers(0, 9).map(lambda before: Chunk(0, 1, "stderr", 7, Piece(b"x", before=before))),
        st.text(max_size=300).map(lambda text: Note(0, "process.error", {"error": text, "stream": {"seq": 1}})),
        st.integers(1, 1000).map(lambda count: Gap(1, count, 5, 3)),
    ),
    max_size=60,
)


def numbered(entries):
    """The same entries, one after the other in the sequence."""
    seq, placed = 1, []
    for entry in entries:
        match entry:
            case Chunk():
                placed.append(Chunk(seq, entry.count, entry.stream, entry.offset, entry.piece))
            case Note():
                placed.append(Note(seq, entry.method, entry.params))
            case Gap():
                placed.append(Gap(seq, seq + entry.count - 1, entry.dropped_bytes, entry.dropped_lines))
        seq += entry.count
    return placed


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file to write journals to."""
    fd = os.open(tmp_path_factory.mktemp("journal") / "journal", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def written(fd: int, entries) -> tuple[int, int]:
    """Write a journal of these entries. Returns where its lines begin and end."""
    first = journal.head(Account(), {"execution_id": "one"})
    text = first + b"".join(map(journal.line, entries))
    os.ftruncate(fd, 0)
    os.pwrite(fd, text, 0)
    return len(first), len(text)


@settings(deadline=None)
@given(entries=ENTRIES.map(numbered))
def test_what_is_written_is_read(file, entries):
    """Every entry comes back, a chunk without its text, whatever a state change has to say."""
    start, end = written(file, entries)
    read = [said for _, _, said in journal.lines(file, start, end)]
    assert [
        said.chunk(entry.piece.text) if isinstance(said, Place) else said
        for said, entry in zip(read, entries, strict=True)
    ] == entries


@settings(deadline=None, max_examples=200)
@given(entries=ENTRIES.map(numbered), given_up=st.integers(0, 8), seq=st.integers(1, 300))
def test_every_entry_is_found(file, entries, given_up, seq):
    """By any number that it holds; of those that were given up, by its blocks, the next one is found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "BLOCK", 64)
        start, end = written(file, entries)
        ends = [after for _, after, _ in journal.lines(file, start, end)]
        gone = max(0, min(given_up * 7, len(entries) - 1))  # the last one always stays
        if gone:
            begin, stop = -(-start // 64) * 64, ends[gone - 1] // 64 * 64
            os.pwrite(file, bytes(max(0, stop - begin)), begin)
        kept = [(at, entry) for (at, entry) in zip([start, *ends], entries, strict=False)][gone:]
        if kept and seq < kept[0][1].seq:
            seq = kept[0][1].seq
        expected = next((at for at, entry in kept if entry.seq + entry.count > seq), end)
        assert journal.find(file, start, end, seq) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"5",
        b'{"seq":1}',
        b'{"seq":"1","count":1,"stream":"stdout","offset":0,"size":1,"part":0,"parts":1}',
        b'{"seq":1,"count":1,"stream":"neither","offset":0,"size":1,"part":0,"parts":1}',
        b'{"seq":1,"count":1,"stream":"stdout","offset":-1,"size":1,"part":0,"parts":1}',
        b'{"seq":1,"count":1,"stream":"stdout","offset":0,"size":1,"part":0}',
        b'{"seq":1,"method":"process.started","params":[]}',
        b'{"seq":null,"method":"process.started","params":{}}',
        b'{"from_seq":1,"to_seq":true,"dropped_bytes":0,"dropped_lines":0}',
        b'{"seq":1,"method":"process.star',
        b"\xff\xfe",
    ],
)
def test_what_is_no_line_is_passed_over(text):
    """Somebody has changed the file: nothing is made up, and nothing fails."""
    assert journal.parsed(text) is None


def test_the_account_never_grows():
    """It is written over in place: the largest numbers take as much room as none."""
    assert len(Account(2**63, 2**63, 2**63).encoded()) == len(Account().encoded())


def test_the_first_line_comes_back(file):
    """The account and the description, however long that is."""
    text = journal.head(Account(5, 6, 7), {"command": "x" * 100_000})
    os.ftruncate(file, 0)
    os.pwrite(file, text, 0)
    assert journal.read_head(file) == (Account(5, 6, 7), {"command": "x" * 100_000}, len(text))
    os.ftruncate(file, 50_000)
    with pytest.raises(JournalError, match="not whole"):
        journal.read_head(file)


@pytest.mark.parametrize(
    "account", [b"", b'"oldest_seq":[],', b'"oldest_seq":1,"dropped_bytes":0,"dropped_lines":null,']
)
def test_a_first_line_without_an_account_is_none(file, account):
    """Whoever reads it learns what is wrong, in the way in which they learn of any other damage."""
    os.ftruncate(file, 0)
    os.pwrite(file, b'{"format":1,' + account + b'"execution":{}}\n', 0)
    with pytest.raises(JournalError, match="account"):
        journal.read_head(file)
