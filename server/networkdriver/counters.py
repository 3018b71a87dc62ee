"""Traffic counters of the containers' interfaces, all read at once from /proc/net/dev."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

# /proc/net is the namespace of the process's first thread; this is that of the thread which asks.
DEVICES = Path("/proc/thread-self/net/dev")


class Counters(NamedTuple):
    """What went through an interface, seen from inside the container."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int


def read_counters(path: Path = DEVICES) -> dict[str, Counters]:
    """The counters of every veth's host end, by its name on the host, from the container's point of view.

    What the host's end received is what the container sent, so the two are swapped.
    """
    found = {}
    for line in path.read_bytes().splitlines()[2:]:
        name, _, rest = line.partition(b":")
        sent_bytes, sent_packets, sent_errors, *_, got_bytes, got_packets, got_errors = rest.split(maxsplit=11)[:11]
        found[name.strip().decode()] = Counters(
            int(got_bytes), int(got_packets), int(got_errors), int(sent_bytes), int(sent_packets), int(sent_errors)
        )
    return found
