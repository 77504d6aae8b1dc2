"""Secrets: reading them, and finding them in what is printed and made."""

import os
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgefile.errors import UsageError
from forgefile.job import SecretFile
from forgefile.model import Secret
from forgefile.secret import HIDDEN, Hider, find, forms, is_still, read


def secret(content, name="token"):
    return SecretFile(name=name, at=f"/run/forge/secret/{name}", content=content)


def fed(hider, pieces):
    return b"".join([*map(hider.feed, pieces), hider.rest()])


# Reading


def test_a_file_is_read_as_it_is(tmp_path):
    (tmp_path / "key").write_bytes(b"\0binary\xff\n\n")
    assert read(Secret(name="key", file="key"), str(tmp_path), None) == b"\0binary\xff\n\n"
    assert read(Secret(name="key", file=str(tmp_path / "key")), "/", None) == b"\0binary\xff\n\n"


def test_a_variable_is_read_as_it_is(monkeypatch):
    monkeypatch.setitem(os.environb, b"TOKEN", b"caf\xe9-caf\xe9 ")
    assert read(Secret(name="token", env="TOKEN"), "/", None) == b"caf\xe9-caf\xe9 "


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        (b"", "it is too short; expected 8 to 65536 bytes"),
        (b"\n" * 20, "it is too short; expected 8 to 65536 bytes"),
        (b"1234567\n", "it is too short; expected 8 to 65536 bytes"),
        (b"x" * 65537, "it is too long; expected 8 to 65536 bytes"),
    ],
)
def test_what_is_no_secret(tmp_path, content, problem):
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read(Secret(name="token", file="key"), str(tmp_path), None)
    assert caught.value.message == f"the file key gives no secret 'token': {problem}"


@pytest.mark.parametrize("content", [b"12345678", b"x" * 65536])
def test_the_limits_are_allowed(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    assert read(Secret(name="token", file="key"), str(tmp_path), None) == content


def test_a_variable_that_is_not_set(monkeypatch):
    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(UsageError, match="the variable TOKEN gives no secret 'token': it is not set"):
        read(Secret(name="token", env="TOKEN"), "/", None)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "key")
    with pytest.raises(UsageError, match="it is no regular file"):
        read(Secret(name="token", file="key"), str(tmp_path), None)


def test_a_change_is_seen(tmp_path):
    (tmp_path / "key").write_bytes(b"12345678")
    key = Secret(name="token", file="key")
    assert is_still(key, str(tmp_path), b"12345678")
    (tmp_path / "key").write_bytes(b"12345679")
    assert not is_still(key, str(tmp_path), b"12345678")
    (tmp_path / "key").unlink()
    assert not is_still(key, str(tmp_path), b"12345678")


def test_no_text_of_a_job_has_the_content():
    assert repr(secret(b"hunter2-hunter2")) == "SecretFile(name='token', at='/run/forge/secret/token')"


# Hiding

LETTERS = st.sampled_from([b"a", b"b", b"\n", b" "])
TEXTS = st.lists(LETTERS, max_size=60).map(b"".join)
CONTENTS = st.lists(LETTERS, min_size=8, max_size=24).map(b"".join).filter(lambda content: len(content.strip()) >= 8)


@given(st.lists(CONTENTS, min_size=1, max_size=3), st.data())
def test_pieces_do_not_matter_and_nothing_gets_through(contents, data):
    pieces = data.draw(st.lists(st.one_of(TEXTS, st.sampled_from(contents)), max_size=12))
    cut = data.draw(st.lists(st.integers(1, 5), max_size=40))
    whole = b"".join(pieces)
    shares, rest = [], whole
    for length in cut:
        shares.append(rest[:length])
        rest = rest[length:]
    hider = Hider(map(secret, contents))
    told = fed(hider, [*shares, rest])
    assert told == Hider(map(secret, contents)).whole(whole)
    for content in contents:
        assert content.strip() not in told


@given(st.binary(min_size=8, max_size=40).filter(lambda content: len(content.strip()) >= 8), st.binary(max_size=9))
def test_base64_is_hidden_after_anything(content, before):
    bare = content.strip()
    printed = b64encode(before + bare)
    told = Hider([secret(content)]).whole(printed)
    assert HIDDEN in told
    assert all(form not in told for form in forms(content))


def test_what_is_no_secret_is_told_at_once():
    hider = Hider([secret(b"hunter2-hunter2\n")])
    assert hider.feed(b"hello\n") == b"hello\n"
    assert hider.feed(b"it is hunt") == b"it is "
    assert hider.feed(b"er3\n") == b"hunter3\n"
    assert hider.feed(b"hunter2-hunter2") == b"***"
    assert hider.feed(b"hunter2-") == b""
    assert hider.rest() == b"hunter2-"
    assert hider.rest() == b""


def test_the_longest_counts():
    hider = Hider([secret(b"12345678"), secret(b"1234567890")])
    assert fed(hider, [b"12345678", b"90 12345678", b"9 "]) == b"*** ***9 "


def test_the_lines_of_a_secret():
    content = b"machine example.org\n  login me\npassword hunter2\n"
    hider = Hider([secret(content)])
    assert fed(hider, [b"1: password hunter2\r\n2: login me\r\n"]) == b"1: ***\r\n2: ***\r\n"
    assert fed(hider, [b"<", content, b">"]) == b"<***\n>"
    assert fed(hider, [b"short: me\n"]) == b"short: me\n"


def test_without_secrets_nothing_is_touched():
    assert fed(Hider([]), [b"a", b"", b"b"]) == b"ab"
    assert Hider([]).text("a\udcffb") == "a\udcffb"


def test_a_large_secret_in_small_pieces():
    content = bytes(range(33, 127)) * 600
    hider = Hider([secret(content)])
    pieces = [content[at : at + 4096] for at in range(0, len(content), 4096)]
    assert fed(hider, [b"a", *pieces, b"b"]) == b"a***b"


def test_texts():
    assert Hider([secret("pässwort".encode())]).text("it was 'pässwort'") == "it was '***'"


# Finding

SECRET = b"hunter2-hunter2\n"


def test_nothing_is_found_where_nothing_is(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_bytes(b"hunter2-hunter")
    (tmp_path / "folder/empty").touch()
    (tmp_path / "folder/link").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "folder/pipe")
    assert find(str(tmp_path), [secret(SECRET)]) is None
    assert find(str(tmp_path / "none"), [secret(SECRET)]) is None


@pytest.mark.parametrize("before", [0, 1, (1 << 20) - 8, (1 << 20) - 1, 1 << 20, (3 << 20) - 14])
@pytest.mark.parametrize("content", [SECRET, b64encode(b"user:hunter2-hunter2")])
def test_contents(tmp_path, before, content):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_bytes(b"x" * before + content.strip() + b"y" * 100)
    assert find(str(tmp_path), [secret(b"something else", "other"), secret(SECRET)]) == ("token", "folder/file")
    assert find(str(tmp_path / "folder/file"), [secret(SECRET)]) == ("token", "")


def test_names_links_and_attributes(tmp_path):
    (tmp_path / "name").mkdir()
    (tmp_path / "name/a hunter2-hunter2 b").mkdir()
    assert find(str(tmp_path), [secret(SECRET)]) == ("token", "name/a hunter2-hunter2 b")
    (tmp_path / "name/a hunter2-hunter2 b").rmdir()
    (tmp_path / "link").symlink_to("/hunter2-hunter2")
    assert find(str(tmp_path), [secret(SECRET)]) == ("token", "link")
    (tmp_path / "link").unlink()
    try:
        os.setxattr(tmp_path / "name", "user.note", b"hunter2-hunter2")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    assert find(str(tmp_path), [secret(SECRET)]) == ("token", "name")
