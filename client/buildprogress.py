"""A build's progress: lines as BuildKit's users know them, JSON, or a live view on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moorage.client import format
from moorage.client.console import say_json, tell

if TYPE_CHECKING:
    from moorage.v1 import build_pb2 as pb

Show = Callable[["pb.BuildResponse"], None]

LIVE_LINES = 6
"""Lines of output that the live view shows of a running step."""


@contextmanager
def progress(form: str, quiet: bool) -> Iterator[Show]:
    """What shows a build's messages: `plain`, `json` or `auto` (live on a terminal)."""
    if quiet:
        yield lambda _: None
    elif form == "json":
        yield _json
    elif form == "auto" and sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield Plain().show


def _json(message: pb.BuildResponse) -> None:
    """A message a line, with its kind; without what is the client's own business."""
    from moorage.client.jsonout import to_dict

    kind = message.WhichOneof("message")
    if kind not in (None, "wanted", "agent", "files"):
        value = getattr(message, kind)
        say_json({"kind": kind, **({"message": value} if isinstance(value, str) else to_dict(value))})
        sys.stdout.flush()


class Plain:
    """Lines on stderr: `#2 [build 2/7] RUN make`, `#2 0.412 output`, `#2 DONE 1.2s` or `#2 CACHED`."""

    def __init__(self, line: Callable[[str], None] = tell) -> None:
        self._line = line
        self._began: dict[int, float] = {}
        self._rest: dict[tuple[int, int], bytes] = {}

    def show(self, message: pb.BuildResponse) -> None:
        match message.WhichOneof("message"):
            case "begun":
                self._began[message.begun.step] = time.monotonic()
                self._line(f"#{message.begun.step} {format.printable(message.begun.name)}")
            case "output":
                self._output(message.output)
            case "ended":
                self._flush(message.ended.step)
                self._line(f"#{message.ended.step} {ending(message.ended)}")
            case "warning":
                self._line(f"warning: {format.printable(message.warning)}")

    def _output(self, output: pb.BuildStepOutput) -> None:
        key = (output.step, output.stream)
        from moorage.v1 import build_pb2

        status = output.stream == build_pb2.BUILD_STREAM_STATUS
        *lines, rest = (self._rest.pop(key, b"") + output.data + (b"\n" if status else b"")).split(b"\n")
        for line in lines:
            self._tell(output.step, line)
        if rest:
            self._rest[key] = rest

    def _flush(self, step: int) -> None:
        for key in [key for key in self._rest if key[0] == step]:
            self._tell(step, self._rest.pop(key))

    def _tell(self, step: int, line: bytes) -> None:
        passed = time.monotonic() - self._began.get(step, time.monotonic())
        # Of a line that was written over, what was there last.
        text = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
        self._line(f"#{step} {passed:.3f} {format.printable(text)}")


def ending(ended: pb.BuildStepEnded) -> str:
    """How a step ended, in a few words."""
    if ended.error:
        return f"ERROR {format.printable(ended.error)}"
    return "CACHED" if ended.cached else f"DONE {ended.duration_nanos / 1e9:.1f}s"


@contextmanager
def _live() -> Iterator[Show]:
    """Steps that have ended as lines; those that run below them, with the end of their output."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    running: dict[int, tuple[str, float]] = {}
    output: dict[int, list[str]] = {}

    def view() -> Text:
        lines = []
        for step, (name, began) in running.items():
            lines.append(f" => {name}  {time.monotonic() - began:.1f}s")
            lines += [f"    {line}" for line in output.get(step, [])]
        return Text("\n".join(lines), overflow="ellipsis", no_wrap=True)

    with Live(console=console, get_renderable=view, refresh_per_second=8, transient=True):

        def show(message: pb.BuildResponse) -> None:
            match message.WhichOneof("message"):
                case "begun":
                    running[message.begun.step] = (format.printable(message.begun.name), time.monotonic())
                case "output":
                    text = message.output.data.decode("utf-8", "replace").rstrip("\n").split("\n")
                    kept = output.setdefault(message.output.step, [])
                    kept += [format.printable(line) for line in text]
                    del kept[:-LIVE_LINES]
                case "ended":
                    name, _ = running.pop(message.ended.step, ("", 0.0))
                    last = output.pop(message.ended.step, [])
                    console.print(Text(f" => {name}  {ending(message.ended)}"))
                    if message.ended.error:
                        console.print(Text("\n".join(f"    {line}" for line in last)))
                case "warning":
                    console.print(Text(f"warning: {format.printable(message.warning)}"))

        yield show
