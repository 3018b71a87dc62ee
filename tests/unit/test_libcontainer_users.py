"""passwd and group files, and who a name is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.libcontainer.errors import StartError
from moorage.server.libcontainer.users import (
    MAX_FILE_SIZE,
    MAX_ID,
    GroupEntry,
    PasswdEntry,
    User,
    parse_group,
    parse_id,
    parse_passwd,
    resolve,
)

NAMES = st.from_regex(r"[a-z_][a-z0-9_-]{0,20}", fullmatch=True)
IDS = st.integers(0, MAX_ID)


@given(st.lists(st.builds(PasswdEntry, NAMES, IDS, IDS, st.from_regex(r"/[a-z/]{0,20}", fullmatch=True))))
def test_passwd_round_trip(entries: list[PasswdEntry]) -> None:
    text = "".join(f"{entry.name}:x:{entry.uid}:{entry.gid}:some body:{entry.home}:/bin/sh\n" for entry in entries)
    assert list(parse_passwd(text.encode())) == entries


@given(st.lists(st.builds(GroupEntry, NAMES, IDS, st.lists(NAMES).map(tuple))))
def test_group_round_trip(entries: list[GroupEntry]) -> None:
    text = "".join(f"{entry.name}:x:{entry.gid}:{','.join(entry.members)}\n" for entry in entries)
    assert list(parse_group(text.encode())) == entries


@given(st.binary(max_size=300))
def test_garbage_is_passed_over(content: bytes) -> None:
    for entry in parse_passwd(content):
        assert entry.name and 0 <= entry.uid <= MAX_ID
    for group in parse_group(content):
        assert group.name and 0 <= group.gid <= MAX_ID


@pytest.mark.parametrize(
    "line",
    [
        "",
        "root",
        "#root:x:0:0::/:/",
        ":x:0:0::/:/",
        "root:x::0::/:/",
        "root:x:-1:0::/:/",
        "root:x:4294967295:0::/:/",
        "root:x:٣:0::/:/",
        "+::::::",
    ],
)
def test_malformed_passwd_lines(line: str) -> None:
    assert list(parse_passwd(f"{line}\ngood:x:1:2::/h:/s\n".encode())) == [PasswdEntry("good", 1, 2, "/h")]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("2147483647", MAX_ID),
        ("2147483648", None),
        ("-1", None),
        ("", None),
        ("1a", None),
        ("²", None),
        (" 1", None),
        ("00001", 1),
    ],
)
def test_numbers(text: str, number: int | None) -> None:
    assert parse_id(text) == number


@pytest.fixture
def root(tmp_path: Path) -> int:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0::/root:\nbob:x:1000:1001::/home/bob:\n1234:x:7:7::/seven:\n",
    )
    (tmp_path / "etc/group").write_text("bob:x:1001:\nstaff:x:50:alice,bob\nwheel:x:10:bobby\n1:x:99:\n")
    return os.open(tmp_path, os.O_PATH)


@pytest.mark.parametrize(
    ("username", "expected"),
    [
        ("bob", User(1000, 1001, (1001, 50), "/home/bob")),
        ("1000", User(1000, 1001, (1001, 50), "/home/bob")),
        ("bob:staff", User(1000, 50, (50,), "/home/bob")),
        ("bob:", User(1000, 1001, (1001, 50), "/home/bob")),
        ("bob:60", User(1000, 60, (60,), "/home/bob")),
        ("77", User(77, 0, (0,), "/")),
        ("1234", User(1234, 0, (0,), "/")),
        ("0:1", User(0, 1, (1,), "/root")),
    ],
)
def test_names(root: int, username: str, expected: User) -> None:
    assert resolve(root, {"username": username}) == expected
    os.close(root)


@pytest.mark.parametrize("username", ["eve", ":staff", "bob:nosuch", "99999999999", "bob:staff:x", "root\n"])
def test_unknown_names(root: int, username: str) -> None:
    with pytest.raises(StartError, match="unable to find") as caught:
        resolve(root, {"username": username})
    assert caught.value.exit_code == 126
    os.close(root)


def test_numbers_need_no_files(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_PATH)
    assert resolve(root, {"uid": 5, "gid": 6, "additionalGids": [7, 6]}) == User(5, 6, (6, 7), "/")
    assert resolve(root, {"username": "5:6"}) == User(5, 6, (6,), "/")
    assert resolve(root, {}) == User(0, 0, (0,), "/")
    os.close(root)


@pytest.mark.parametrize(
    "user", [{"uid": -1}, {"uid": MAX_ID + 1}, {"gid": -1}, {"additionalGids": [1 << 32]}, {"uid": "0"}]
)
def test_numbers_out_of_range(root: int, user: dict[str, object]) -> None:
    with pytest.raises(StartError, match="is not between"):
        resolve(root, user)
    os.close(root)


def test_too_large_a_file(root: int, tmp_path: Path) -> None:
    with open(tmp_path / "etc/passwd", "wb") as file:
        file.truncate(MAX_FILE_SIZE + 1)
    with pytest.raises(StartError, match="has more than"):
        resolve(root, {"username": "bob"})
    os.close(root)
