"""The tokens: made, shown once, kept as hashes, changed and withdrawn; all of it on a real disk."""

import base64
import hashlib
import json
import os
import stat
import time
from pathlib import Path

import pytest
import trio

from ccexecd.core.principals import Scope
from ccexecd.external import tokens as module
from ccexecd.external.token_file import TokenError
from ccexecd.external.tokens import DEFAULT, TokenNameError, Tokens

EXECUTE = (Scope.EXECUTE,)


@pytest.fixture
def load(tmp_path: Path):
    """Read the files of a state directory, as each start of a daemon does."""
    return lambda: Tokens.load(tmp_path / "token", tmp_path / "tokens.json")


def name_of(tokens: Tokens, shown: str) -> str | None:
    found = tokens.find(shown)
    return found.name if found else None


async def test_the_default_token_is_the_file_s(load, tmp_path):
    """What the first start has made admits to everything, as it always did; it is all that there is at first."""
    tokens = load()
    text = (tmp_path / "token").read_text().strip()
    assert await tokens.show() == text
    found = tokens.find(text)
    assert (found.name, found.scopes, found.expires_at) == (DEFAULT, (Scope.ADMIN,), None)
    assert not (tmp_path / "tokens.json").exists()


async def test_a_named_token_has_256_bits(load):
    """It is as long as the default one, and no two are alike."""
    tokens = load()
    texts = {(await tokens.add(f"t{number}", EXECUTE, None))[1] for number in range(20)}
    assert len(texts) == 20
    assert {len(base64.urlsafe_b64decode(text + "=")) for text in texts} == {32}


async def test_a_named_token_outlives_the_daemon(load):
    """The next start knows it, with its scopes and its times."""
    token, text = await load().add("ci", (Scope.OBSERVE, Scope.EXECUTE), 3600)
    again = load().find(text)
    assert again == token
    assert again.scopes == (Scope.OBSERVE, Scope.EXECUTE)
    assert 3590 < again.expires_at - time.time() <= 3600
    assert again.principal.may(Scope.EXECUTE)
    assert not again.principal.may(Scope.ADMIN)


async def test_only_hashes_are_kept(load, tmp_path):
    """Whoever reads the file of named tokens can show none of them; nobody else can read even that."""
    tokens = load()
    _, text = await tokens.add("ci", EXECUTE, None)
    path = tmp_path / "tokens.json"
    assert text not in path.read_text()
    assert json.loads(path.read_text())["tokens"][0]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert text not in repr(tokens.known())
    assert text not in repr(vars(tokens))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["token", "tokens.json"]


async def test_the_hash_itself_admits_nobody(load):
    """A copied file of hashes is of no use at the door."""
    tokens = load()
    await tokens.add("ci", EXECUTE, None)
    digest = tokens.known()[1].digest
    for shown in (digest.hex(), base64.urlsafe_b64encode(digest).decode(), digest.decode("latin-1")):
        assert tokens.find(shown) is None


@pytest.mark.parametrize("shown", ["", "=", "x", "\xff" * 40, "a" * 100_000, "%%%", "ä"])
async def test_what_is_no_token_is_nobody_s(load, shown):
    """Whatever bytes are shown, they are just wrong."""
    assert load().find(shown) is None


async def test_every_token_is_compared_in_constant_time(load, monkeypatch):
    """All of them are looked at with `compare_digest`, also behind the one that was meant."""
    tokens = load()
    _, first = await tokens.add("first", EXECUTE, None)
    await tokens.add("second", EXECUTE, None)
    compared: list[bytes] = []
    compare = module.hmac.compare_digest

    def count(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(module.hmac, "compare_digest", count)
    assert name_of(tokens, first) == "first"
    assert set(compared) == {token.digest for token in tokens.known()}


class TestRotate:
    """Another text for the same token."""

    async def test_the_old_text_admits_nobody(self, load):
        """The new one does at once, with the same scopes, also after the next start."""
        tokens = load()
        token, old = await tokens.add("ci", EXECUTE, 3600)
        new = await tokens.rotate("ci")
        for each in (tokens, load()):
            assert each.find(old) is None
            assert each.find(new).scopes == EXECUTE
            assert each.find(new).expires_at == token.expires_at

    async def test_the_default_one_s_file_is_replaced(self, load, tmp_path):
        """Programs that read it find the new text, in a file that is as private as the old one."""
        tokens = load()
        old = await tokens.show()
        new = await tokens.rotate(DEFAULT)
        assert (tmp_path / "token").read_text() == new + "\n"
        assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
        assert (name_of(tokens, old), name_of(tokens, new), name_of(load(), new)) == (None, DEFAULT, DEFAULT)

    async def test_a_disk_that_takes_nothing_changes_nothing(self, load, tmp_path, monkeypatch):
        """What cannot be kept is not in force either: the old text still admits, before and after the next start."""
        tokens = load()
        _, old = await tokens.add("ci", EXECUTE, None)

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        for change in (
            tokens.rotate("ci"),
            tokens.revoke("ci"),
            tokens.rotate(DEFAULT),
            tokens.add("b", EXECUTE, None),
        ):
            with pytest.raises(TokenError, match=r"cannot write the token file .*No space left on device"):
                await change
        monkeypatch.undo()
        assert name_of(tokens, old) == name_of(load(), old) == "ci"
        assert [token.name for token in tokens.known()] == [DEFAULT, "ci"]
        assert sorted(each.name for each in tmp_path.iterdir()) == ["token", "tokens.json"]


class TestRevoke:
    """Withdrawn for good."""

    async def test_it_admits_nobody(self, load):
        """At once, and after the next start; its name is free again."""
        tokens = load()
        _, text = await tokens.add("ci", EXECUTE, None)
        await tokens.revoke("ci")
        assert tokens.find(text) is None
        assert load().find(text) is None
        await tokens.add("ci", EXECUTE, None)

    async def test_whoever_came_in_by_it_is_told_of(self, load):
        """The names of what admits nobody any more are told, of a rotation too, and not before it is true."""
        tokens = load()
        _, text = await tokens.add("ci", EXECUTE, None)
        told: list[tuple[str, str | None]] = []
        tokens.withdrawn = lambda name: told.append((name, name_of(tokens, text)))
        await tokens.rotate("ci")
        await tokens.revoke("ci")
        assert told == [("ci", None), ("ci", None)]

    async def test_the_default_one_stays(self, load):
        """Without it, nobody could be let in from elsewhere; it is rotated instead."""
        with pytest.raises(TokenNameError, match="can only be rotated"):
            await load().revoke(DEFAULT)


@pytest.mark.parametrize("name", ["", "uid:0", "-x", ".x", "a b", "a/b", "x" * 65, "ä", "a\n"])
async def test_a_name_that_could_be_another_s(load, name):
    """A token cannot be named like a user, nor so that a log or a table would show something else."""
    with pytest.raises(TokenNameError, match="a letter or digit first"):
        await load().add(name, EXECUTE, None)


async def test_a_name_is_taken_once(load):
    """A second token of a name would be the first one's principal, and see what is its."""
    tokens = load()
    await tokens.add("ci", EXECUTE, None)
    for name in ("ci", DEFAULT):
        with pytest.raises(TokenNameError, match=f"there is a token '{name}' already"):
            await tokens.add(name, EXECUTE, None)


async def test_there_are_not_any_number_of_them(load, monkeypatch):
    """Each is looked at whenever one is shown, so they are bounded."""
    monkeypatch.setattr(module, "MAX_TOKENS", 2)
    tokens = load()
    await tokens.add("a", EXECUTE, None)
    await tokens.add("b", EXECUTE, None)
    with pytest.raises(TokenNameError, match="as many as may be"):
        await tokens.add("c", EXECUTE, None)


@pytest.mark.parametrize("change", ["rotate", "revoke"])
async def test_a_token_that_is_not_there(load, change):
    """A slip in a name is told as that."""
    with pytest.raises(TokenNameError, match="there is no token 'nope'"):
        await getattr(load(), change)("nope")


async def test_changes_at_the_same_time_are_all_kept(load):
    """Two operators who add at once do not lose each other's token."""
    tokens = load()
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(tokens.add, f"t{number}", EXECUTE, None)
    expected = {DEFAULT, *(f"t{number}" for number in range(10))}
    assert {token.name for token in tokens.known()} == {token.name for token in load().known()} == expected


def kept(**wrong: object) -> str:
    """A file with one token, of which something is wrong."""
    token = {"name": "a", "scopes": [], "sha256": "0" * 64, "created_at": "2026-01-01T00:00:00Z", "expires_at": None}
    return json.dumps({"version": 1, "tokens": [{**token, **wrong}]})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "tokens": []}',
        '{"version": 1, "tokens": [{}]}',
        kept(name="uid:0"),
        kept(name="default"),
        kept(scopes=["root"]),
        kept(sha256="00"),
        kept(created_at="yesterday"),
        kept(expires_at=7),
    ],
)
async def test_a_file_that_is_not_understood_stops_the_start(load, tmp_path, content):
    """Half a list of tokens could be less than the operator believes, so there is none; the error names the file."""
    path = tmp_path / "tokens.json"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(TokenError, match=f"{path} cannot be understood .*restore it, or delete it"):
        load()


async def test_a_file_that_others_can_write_is_not_believed(load, tmp_path):
    """Whoever could have put a token there could be anybody."""
    await load().add("ci", EXECUTE, None)
    (tmp_path / "tokens.json").chmod(0o660)
    with pytest.raises(TokenError, match="open to other users"):
        load()


async def test_a_default_token_that_has_gone_can_be_rotated(load, tmp_path):
    """Somebody has deleted the file: what can be done about it is in the error, and it works."""
    tokens = load()
    (tmp_path / "token").unlink()
    with pytest.raises(TokenError, match="is gone; rotate it to have another"):
        await tokens.show()
    assert await tokens.rotate(DEFAULT) == await tokens.show()
