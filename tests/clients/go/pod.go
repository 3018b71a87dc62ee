package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	cri "example.org/moorage/clients/gen/moorage/cri/v1"
)

type podSeen struct {
	RuntimeAPI string `json:"runtime_api"`
	ImageRef   string `json:"image_ref"`
	PodState   string `json:"pod_state"`
	Stdout     string `json:"stdout"`
	Stderr     string `json:"stderr"`
	ExecExit   int32  `json:"exec_exit"`
	Running    string `json:"running"`
	Labels     string `json:"labels"`
	Stopped    string `json:"stopped"`
	ExitCode   int32  `json:"exit_code"`
	Gone       string `json:"gone"`
}

// runPod makes a pod with a container in it, executes a command there, and takes it down again.
func runPod(ctx context.Context, connection *grpc.ClientConn, image string) (*podSeen, error) {
	seen := &podSeen{}
	runtime := cri.NewRuntimeServiceClient(connection)
	version, err := runtime.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		return nil, fmt.Errorf("version: %w", err)
	}
	seen.RuntimeAPI = version.RuntimeApiVersion
	spec := &cri.ImageSpec{Image: image}
	pulled, err := cri.NewImageServiceClient(connection).PullImage(ctx, &cri.PullImageRequest{Image: spec})
	if err != nil {
		return nil, fmt.Errorf("pull: %w", err)
	}
	seen.ImageRef = pulled.ImageRef
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "go", Namespace: "default", Uid: "moorage-client-go"},
		Linux:    &cri.LinuxPodSandboxConfig{},
	}
	pod, err := runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		return nil, fmt.Errorf("run pod: %w", err)
	}
	if err := use(ctx, runtime, pod.PodSandboxId, config, spec, seen); err != nil {
		return nil, err
	}
	if _, err := runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId}); err != nil {
		return nil, fmt.Errorf("remove pod: %w", err)
	}
	_, err = runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod.PodSandboxId})
	seen.Gone = codeOf(err)
	return seen, nil
}

// use does all that is done between making a pod and removing it.
func use(
	ctx context.Context, runtime cri.RuntimeServiceClient, pod string, config *cri.PodSandboxConfig, spec *cri.ImageSpec, seen *podSeen,
) error {
	ready, err := runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		return fmt.Errorf("pod status: %w", err)
	}
	seen.PodState = ready.Status.State.String()
	container, err := start(ctx, runtime, pod, config, spec)
	if err != nil {
		return err
	}
	command := []string{"sh", "-c", "echo from exec; echo complaint >&2; exit 3"}
	done, err := runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: container, Cmd: command, Timeout: 20})
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	seen.Stdout, seen.Stderr, seen.ExecExit = string(done.Stdout), string(done.Stderr), done.ExitCode
	running, err := runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: container})
	if err != nil {
		return fmt.Errorf("container status: %w", err)
	}
	seen.Running, seen.Labels = running.Status.State.String(), running.Status.Labels["app"]
	if _, err := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		return fmt.Errorf("stop pod: %w", err)
	}
	stopped, err := runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: container})
	if err != nil {
		return fmt.Errorf("container status: %w", err)
	}
	seen.Stopped, seen.ExitCode = stopped.Status.State.String(), stopped.Status.ExitCode
	return nil
}

func start(
	ctx context.Context, runtime cri.RuntimeServiceClient, pod string, config *cri.PodSandboxConfig, spec *cri.ImageSpec,
) (string, error) {
	made, err := runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId:  pod,
		SandboxConfig: config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main"},
			Image:    spec,
			Command:  []string{"sleep", "600"},
			Labels:   map[string]string{"app": "client"},
			Linux:    &cri.LinuxContainerConfig{},
		},
	})
	if err != nil {
		return "", fmt.Errorf("create: %w", err)
	}
	if _, err := runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return "", fmt.Errorf("start: %w", err)
	}
	return made.ContainerId, nil
}
