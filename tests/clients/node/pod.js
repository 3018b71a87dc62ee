import { call, codeOf } from "./calls.js";

// Makes a pod with a container in it, executes a command there, and takes it down again.
export async function runPod(runtime, images, image) {
  const { runtime_api_version } = await call(runtime, "Version", {});
  const { image_ref } = await call(images, "PullImage", { image: { image } });
  const config = { metadata: { name: "node", namespace: "default", uid: "moorage-client-node" }, linux: {} };
  const { pod_sandbox_id } = await call(runtime, "RunPodSandbox", { config });
  const seen = { runtime_api: runtime_api_version, image_ref, ...(await use(runtime, pod_sandbox_id, config, image)) };
  await call(runtime, "RemovePodSandbox", { pod_sandbox_id });
  seen.gone = await codeOf(call(runtime, "PodSandboxStatus", { pod_sandbox_id }));
  return seen;
}

// All that is done between making a pod and removing it.
async function use(runtime, pod_sandbox_id, sandbox_config, image) {
  const ready = await call(runtime, "PodSandboxStatus", { pod_sandbox_id });
  const config = {
    metadata: { name: "main" },
    image: { image },
    command: ["sleep", "600"],
    labels: { app: "client" },
    linux: {},
  };
  const { container_id } = await call(runtime, "CreateContainer", { pod_sandbox_id, config, sandbox_config });
  await call(runtime, "StartContainer", { container_id });
  const cmd = ["sh", "-c", "echo from exec; echo complaint >&2; exit 3"];
  const done = await call(runtime, "ExecSync", { container_id, cmd, timeout: 20 });
  const running = await call(runtime, "ContainerStatus", { container_id });
  await call(runtime, "StopPodSandbox", { pod_sandbox_id });
  const stopped = await call(runtime, "ContainerStatus", { container_id });
  return {
    pod_state: ready.status.state,
    stdout: done.stdout.toString(),
    stderr: done.stderr.toString(),
    exec_exit: done.exit_code,
    running: running.status.state,
    labels: running.status.labels.app,
    stopped: stopped.status.state,
    exit_code: stopped.status.exit_code,
  };
}
