"""A registry, a daemon and a container of the demo's own, from `pull` to `rmi`. Nothing else on the machine is touched, nothing stays."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from contextlib import ExitStack
from typing import Any

from tests import leftovers
from tests.daemon import Daemon
from tests.images import build_busybox, push, tar_layer
from tests.registry import LoopbackRegistry
from tools.demo.stage import Stage, Unexpected

REGISTRY = "registry.example"
IMAGE = f"{REGISTRY}/demo/web:1"
PAGE = b"<h1>hello from a container</h1>\n"
PROGRAM = "httpd -p 8080 -h /www; i=0; while true; do echo tick $i; i=$((i+1)); usleep 10000; done"


def image_in_a_registry(stage: Stage, exits: ExitStack) -> LoopbackRegistry:
    with stage.step("a registry on loopback, holding an image of busybox with a page to serve"):
        registry = exits.enter_context(LoopbackRegistry())
        image = build_busybox(cmd=["/bin/sh", "-c", PROGRAM], extra_layers=[tar_layer({"www/index.html": PAGE})])
        digest = push(registry.url, "demo/web", "1", image)
        stage.say(f"{registry.url}/demo/web:1 is {digest}")
    return registry


def own_daemon(stage: Stage, exits: ExitStack, registry: LoopbackRegistry) -> Daemon:
    with stage.step(f"a daemon with its own root and socket, which looks for {REGISTRY} on loopback"):
        daemon = exits.enter_context(Daemon.temporary({REGISTRY: registry.url}))
        stage.environment = daemon.environment
        stage.say(f"mooraged --root {daemon.root} --state {daemon.state} --listen {daemon.url} is pid {daemon.pid}")
        stage.run("moorage version")
    return daemon


def inspect(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stage.run("moorage inspect --format json web", show=False))
    return found


def pull_and_run(stage: Stage) -> str:
    with stage.step("pull the image by its own name"):
        stage.run(f"moorage pull {IMAGE}")
        stage.run("moorage images")
    with stage.step("run it with limits and a published port"):
        options = "--name web -m 64m --cpus 0.5 --pids-limit 32 -p 127.0.0.1::8080"
        stage.run(f"moorage run -d {options} {IMAGE}")
        stage.run("moorage ps")
    with stage.step("ask the published port over HTTP"):
        address = stage.run("moorage port web 8080").splitlines()[0]
        with urllib.request.urlopen(f"http://{address}/index.html", timeout=10) as answer:
            stage.expect(answer.read() == PAGE, f"http://{address}/index.html answers the page")
    return address


def look_inside(stage: Stage) -> None:
    with stage.step("run a command inside"):
        answer = stage.run("moorage exec web sh -c 'hostname; ps | wc -l; cat /sys/class/net/eth0/address'")
        stage.expect(len(answer.splitlines()) == 3, "it sees its own host name, processes and network")
    with stage.step("read its log"):
        stage.expect(bool(stage.run("moorage logs --tail 3 web")), "the log has lines")
    with stage.step("sample what it uses"):
        stage.run("moorage stats --no-stream web")
        stage.run("moorage top web")


def ticks(stage: Stage) -> list[int]:
    lines = stage.run("moorage logs web", show=False).splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith("tick ")]


def survive_a_kill(stage: Stage, daemon: Daemon, address: str) -> None:
    with stage.step("kill the daemon with SIGKILL; the container serves and logs on"):
        before = inspect(stage)["pid"]
        seen = len(ticks(stage))
        daemon.kill()
        with urllib.request.urlopen(f"http://{address}/index.html", timeout=10) as answer:
            stage.expect(answer.read() == PAGE, "the page is served without the daemon")
        time.sleep(0.5)
    with stage.step("start the daemon again"):
        daemon.start()
        stage.expect(inspect(stage)["pid"] == before, f"pid {before} runs on")
        counted = ticks(stage)
        stage.expect(len(counted) > seen, f"{len(counted) - seen} lines were logged meanwhile")
        stage.expect(counted == list(range(len(counted))), "the log has no gap")


def end(stage: Stage) -> None:
    with stage.step("stop it"):
        stage.run("moorage stop -t 1 web")
        found = inspect(stage)
        stage.expect(found["state"] == "exited", f"it is exited, with code {found['exit_code']}")
    with stage.step("what happened, in order"):
        stage.run("moorage events --since 10m --until 0s")
    with stage.step("remove the container and the image"):
        stage.run("moorage rm web")
        stage.run(f"moorage rmi {IMAGE}")
        stage.expect(stage.run("moorage ps -aq") == "" and stage.run("moorage images -q") == "", "both are gone")


def nothing_left(stage: Stage, before: leftovers.Leftovers) -> None:
    left = leftovers.settle(before)
    if left and leftovers.foreign():
        stage.say(
            "new since the demo began, but another engine or its tests run here, and what is whose cannot be told:"
        )
        for item in left:
            stage.say(f"  {item}")
        return
    for item in left:
        stage.say(item)
    stage.expect(not left, "no process, namespace, mount, cgroup, link, nft table, file or socket is left")


def main() -> int:
    if os.geteuid() != 0:
        print("demo: needs root, as containers do", file=sys.stderr)
        return 1
    stage, before = Stage(), leftovers.take()
    try:
        with ExitStack() as exits:
            daemon = own_daemon(stage, exits, image_in_a_registry(stage, exits))
            address = pull_and_run(stage)
            look_inside(stage)
            survive_a_kill(stage, daemon, address)
            end(stage)
            with stage.step("stop the daemon and the registry"):
                exits.close()
        with stage.step("look for what is left"):
            nothing_left(stage, before)
    except Unexpected as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
