"""What network drivers say when nothing can be attached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from moorage.server.errors import FailedPrecondition
from moorage.server.networkdriver.cni import CniDriver
from moorage.server.networkdriver.firewall import Firewall

STORE = cast(Any, None)


def test_cni_needs_a_configuration_and_its_plugins(tmp_path: Path) -> None:
    conf, bins = tmp_path / "net.d", tmp_path / "bin"
    driver = CniDriver(STORE, str(conf), [str(bins)])
    assert f"cannot read {conf}" in driver.obstacle()
    conf.mkdir()
    assert f"no network configuration in {conf}" in driver.obstacle()
    plugins = [{"type": "bridge"}, {"type": "portmap"}]
    (conf / "10-pods.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}))
    bins.mkdir()
    for plugin in plugins:
        assert f"there is no CNI plugin {plugin['type']} in {bins}" in driver.obstacle()
        (bins / plugin["type"]).touch(0o755)
    assert driver.obstacle() == ""


def test_a_bridge_needs_nftables() -> None:
    class Nft:
        answers = False

        def run(self, commands: str) -> str:
            return ""

        def generation(self) -> int:
            if not self.answers:
                raise FailedPrecondition("cannot ask the kernel for its rules: operation not permitted")
            return 1

    nft = Nft()
    firewall = Firewall(cast(Any, nft), "moorage")
    assert "operation not permitted" in firewall.obstacle()
    nft.answers = True
    assert firewall.obstacle() == ""
