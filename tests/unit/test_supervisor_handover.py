"""supervisor/handover.py: what a keeper makes of what it is sent."""

from __future__ import annotations

import os

import pytest

from moorage.server.libcontainer import cgroups
from moorage.server.supervisor.handover import take_over
from moorage.server.supervisor.keeper import Inheritance
from moorage.server.supervisor.loop import Loop
from moorage.server.supervisor.protocol import ProtocolError, pack_message


def test_a_pod_of_which_a_container_is_missing_is_not_taken_over() -> None:
    """Its supervisor died while it sent them: who would wait for that one's end?"""
    fds, loop = list(os.pipe()), Loop()
    sent = pack_message({"pod": "p", "watchers": 0, "containers": 2}, fds)
    try:
        with pytest.raises(ProtocolError, match="0 of 2 containers"):
            take_over(loop, cgroups.detect(), 1, Inheritance([sent, sent[:20]], list(fds)))
    finally:
        loop.close()
        for fd in fds:
            os.close(fd)
