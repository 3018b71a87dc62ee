"""What verbose answers add, each a text of JSON: under the names, and in the shapes, that users of containerd know.

A config is told as it was asked for, in the field names of CRI; a runtime spec is of the OCI runtime specification.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from moorage.server.api.cri import convert_container, convert_pod
from moorage.server.model import Container, Endpoint, Image, PodRecord

Json = dict[str, Any]


def container_info(value: Container, pod: PodRecord, spec: Mapping[str, Any]) -> dict[str, str]:
    """Of ContainerStatus; `spec` is what the engine describes it as."""
    return _info(
        {
            "sandboxID": value.pod_id,
            "pid": value.pid,
            "removing": value.state == "removing",
            "name": value.name,
            "privileged": value.config.security.privileged,
            "config": plain(convert_container.config_message(value, pod)),
            "runtimeSpec": spec,
        }
    )


def pod_info(pod: PodRecord, spec: Mapping[str, Any]) -> dict[str, str]:
    """Of PodSandboxStatus; `spec` is what the engine describes it as."""
    ready = pod.state == "ready"
    return _info(
        {
            "pid": pod.pid,
            "processStatus": "running" if ready else "deleted",
            "netNamespaceClosed": not ready and pod.config.network == "pod",
            "runtimeHandler": pod.config.runtime_handler,
            "config": plain(convert_pod.config_message(pod.config)),
            "runtimeSpec": spec,
            "cniResult": _cni_result(pod.endpoint, pod.pid) if pod.endpoint else None,
        }
    )


def image_info(value: Image) -> dict[str, str]:
    """Of ImageStatus."""
    config = value.config
    settings = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.exposed_ports},
        "Env": config.env,
        "Entrypoint": config.entrypoint,
        "Cmd": config.command,
        "Volumes": {path: {} for path in config.volumes},
        "WorkingDir": config.working_dir,
        "Labels": config.labels,
        "StopSignal": config.stop_signal,
    }
    platform = {
        "architecture": value.platform.architecture,
        "variant": value.platform.variant,
        "os": value.platform.os,
    }
    return _info(
        {
            "chainID": value.layers[-1].chain_id if value.layers else "",
            "imageSpec": {
                **_set(platform),
                "config": _set(settings),
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in value.layers]},
            },
        }
    )


def plain(message: Message) -> Json:
    """A message as JSON in its own field names: numbers are numbers, bytes are text, what is not set is left out."""
    return {field.name: _plain(field, value) for field, value in message.ListFields()}


def _plain(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if isinstance(value, str | int):
        return value
    return [_plain(field, each) for each in value]


def _set(values: Json) -> Json:
    return {name: value for name, value in values.items() if value}


def _cni_result(endpoint: Endpoint, pid: int) -> Json:
    """The pod's addresses as a CNI plugin's result shows them, also where it is our own bridge that gave them."""
    address = {"IP": endpoint.address.partition("/")[0], "Gateway": endpoint.gateway}
    inside = {"IPConfigs": [address], "Mac": endpoint.mac_address, "Sandbox": f"/proc/{pid}/ns/net"}
    found: Json = {endpoint.interface: inside}
    if endpoint.host_interface:
        found[endpoint.host_interface] = {"IPConfigs": None, "Mac": "", "Sandbox": ""}
    return {"Interfaces": found}


def _info(content: Json) -> dict[str, str]:
    return {"info": json.dumps(content, separators=(",", ":"))}
