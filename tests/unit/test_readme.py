"""How the README's commands are read and compared."""

from __future__ import annotations

from tools.readme import Command, sessions

TEXT = """Words.

```sh
not this
```

```console
$ moorage run --rm busybox \\
> echo hello
hello
$ false
(exit 1)
```

```console
$ true
```
"""


def test_commands_are_read_with_output_and_exit() -> None:
    assert list(sessions(TEXT)) == [
        [Command("moorage run --rm busybox \\\necho hello", ["hello"]), Command("false", [], 1)],
        [Command("true")],
    ]


def test_output_is_compared_with_an_ellipsis_for_anything() -> None:
    command = Command("moorage ps", ["ID  NAME", "…  web"])
    assert command.faults(0, "ID  NAME \nabc  web\n") == []
    assert command.faults(0, "ID  NAME\nabc  other\n") == ["another output"]
    assert command.faults(1, "ID  NAME\nabc  web\n") == ["exit 1 instead of 0"]


def test_without_shown_output_any_will_do() -> None:
    assert Command("moorage pull x").faults(0, "progress") == []
