"""The RPCs about the runtime itself: version, status, configuration."""

from __future__ import annotations

import asyncio
import json

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api.cri.calls import Calls, Ctx, Setting

NAME = "moorage"
API_VERSION = "v1"
KUBELET_API_VERSION = "0.1.0"
"""What every client of CRI calls the version of VersionRequest itself."""
NETWORK_NOT_READY = "NetworkPluginNotReady"
"""The reason that kubelets and their users know from other runtimes."""
CGROUP_DRIVERS = {"cgroupfs": pb.CGROUPFS, "systemd": pb.SYSTEMD}


class StatusCalls(Calls):
    """Version, Status, RuntimeConfig, UpdateRuntimeConfig."""

    async def Version(self, request: pb.VersionRequest, context: Ctx) -> pb.VersionResponse:
        return pb.VersionResponse(
            version=KUBELET_API_VERSION,
            runtime_name=NAME,
            runtime_version=self._setting.version,
            runtime_api_version=API_VERSION,
        )

    async def Status(self, request: pb.StatusRequest, context: Ctx) -> pb.StatusResponse:
        features = self._setting.features
        of_handler = pb.RuntimeHandlerFeatures(
            recursive_read_only_mounts=features.recursive_read_only, user_namespaces=features.user_namespaces
        )
        obstacle = await asyncio.to_thread(self._setting.network.obstacle)
        network = pb.RuntimeCondition(
            type="NetworkReady",
            status=not obstacle,
            reason=NETWORK_NOT_READY if obstacle else "",
            message=obstacle,
        )
        handlers = dict.fromkeys(("", *self._setting.config.runtime_handlers), of_handler)
        for each in self._setting.runtimes:
            handlers[each.runtime.name] = pb.RuntimeHandlerFeatures(
                recursive_read_only_mounts=features.recursive_read_only and each.recursive_read_only,
                user_namespaces=features.user_namespaces and each.user_namespaces,
            )
        return pb.StatusResponse(
            status=pb.RuntimeStatus(
                conditions=[
                    pb.RuntimeCondition(type="RuntimeReady", status=True),
                    network,
                ]
            ),
            info={"config": _info(self._setting), **self._of_network(obstacle)} if request.verbose else {},
            runtime_handlers=[pb.RuntimeHandler(name=name, features=each) for name, each in handlers.items()],
            features=pb.RuntimeFeatures(supplemental_groups_policy=features.supplemental_groups_policy),
        )

    def _of_network(self, obstacle: str) -> dict[str, str]:
        """What is told of CNI, where pods join it."""
        return {"lastCNILoadStatus": obstacle or "OK"} if self._setting.network.name == "cni" else {}

    async def RuntimeConfig(self, request: pb.RuntimeConfigRequest, context: Ctx) -> pb.RuntimeConfigResponse:
        driver = CGROUP_DRIVERS[self._setting.config.cgroup_driver]
        return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=driver))

    async def UpdateRuntimeConfig(
        self, request: pb.UpdateRuntimeConfigRequest, context: Ctx
    ) -> pb.UpdateRuntimeConfigResponse:
        """A node's pod CIDR is of no use here: pods get their addresses from the daemon's own pool."""
        return pb.UpdateRuntimeConfigResponse()


def _info(setting: Setting) -> str:
    config = setting.config
    return json.dumps(
        {
            "rootDir": str(setting.root),
            "cgroupDriver": config.cgroup_driver,
            "runtimeHandlers": config.runtime_handlers,
            "ociRuntimes": [
                {"name": each.runtime.name, "path": each.runtime.path, "version": each.version}
                for each in setting.runtimes
            ],
            "streamAddress": config.stream_address,
            "pinnedImages": config.pinned_images,
        }
    )
