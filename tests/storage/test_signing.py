"""The daemon's key: made once, its own, and never another one unnoticed."""

import os
import subprocess
import sys

import pytest

from ccexecd.storage.signing import SIGNATURE, PublicKey, Signer, SigningError


def test_a_key_is_made_at_first_need_and_found_again(tmp_path):
    """Only its user may read it; its public key lies beside it; signatures of one life are verified in the next."""
    signer = Signer(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key.pub").read_text() == signer.public.pem
    signature = signer.sign(b"text")
    assert len(signature) == SIGNATURE
    again = Signer(tmp_path / "key.pem").public
    assert again.name == signer.public.name == PublicKey(signer.public.pem).name
    assert again.has_signed(b"text", signature)
    assert not again.has_signed(b"texT", signature)
    for none in ("", "?", "A" * SIGNATURE, signature[:-4]):
        assert not again.has_signed(b"text", none)
    assert not Signer(tmp_path / "other.pem").public.has_signed(b"text", signature)


def test_a_key_that_will_not_do_is_never_replaced(tmp_path):
    """One that others may read, garbage, another kind of key, a link: each is told, and stays."""
    path = tmp_path / "key.pem"
    Signer(path)
    path.chmod(0o640)
    with pytest.raises(SigningError, match="chmod 600"):
        Signer(path)
    path.write_text("garbage")
    path.chmod(0o600)
    with pytest.raises(SigningError, match="holds no private key"):
        Signer(path)
    subprocess.run(["openssl", "genpkey", "-algorithm", "X25519", "-out", path], check=True, capture_output=True)
    with pytest.raises(SigningError, match="none for Ed25519"):
        Signer(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        Signer(tmp_path / "link")
    for pem in ("", "garbage"):
        with pytest.raises(SigningError, match="no public key"):
            PublicKey(pem)


@pytest.mark.parametrize(
    "put",
    [
        lambda path: path.write_bytes(b"\xff\0"),
        lambda path: path.write_text("another key"),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/no/such/file"),
        os.mkfifo,
    ],
)
def test_what_lies_in_the_place_of_the_public_key_is_replaced(tmp_path, put):
    """It is for people, and made of the private one."""
    pem = Signer(tmp_path / "key.pem").public.pem
    public = tmp_path / "key.pub"
    public.unlink()
    put(public)
    Signer(tmp_path / "key.pem")
    assert not public.is_symlink()
    assert public.read_text() == pem
    public.unlink()
    public.mkdir()
    assert Signer(tmp_path / "key.pem").public.pem == pem


def test_nothing_is_loaded_before_the_first_signature():
    """A daemon that has run nothing pays nothing for it."""
    program = "import sys, ccexecd.daemon; print('cryptography' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
