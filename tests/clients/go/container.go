package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	moorage "example.org/moorage/clients/gen/moorage/v1"
)

const script = `read line; echo "got $line"; echo complaint >&2; exit 7`

type containerSeen struct {
	ImageID      string `json:"image_id"`
	Stdout       string `json:"stdout"`
	Stderr       string `json:"stderr"`
	AttachedExit int32  `json:"attached_exit"`
	ExitCode     int32  `json:"exit_code"`
	Reason       string `json:"reason"`
	LoggedStdout string `json:"logged_stdout"`
	LoggedStderr string `json:"logged_stderr"`
	Gone         string `json:"gone"`
}

// runContainer pulls the image, makes a container, starts it by attaching, talks to it, and sees it to its end.
func runContainer(ctx context.Context, connection *grpc.ClientConn, image string) (*containerSeen, error) {
	seen := &containerSeen{}
	if err := pull(ctx, moorage.NewImageServiceClient(connection), image, seen); err != nil {
		return nil, fmt.Errorf("pull: %w", err)
	}
	runtime := moorage.NewRuntimeServiceClient(connection)
	config := &moorage.ContainerConfig{Image: image, Command: []string{"sh", "-c", script}, StdinOpen: true, StdinOnce: true}
	made, err := runtime.CreateContainer(ctx, &moorage.CreateContainerRequest{Config: config})
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	if err := attach(ctx, runtime, made.Id, seen); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	ended, err := runtime.WaitContainer(ctx, &moorage.WaitContainerRequest{Id: made.Id})
	if err != nil {
		return nil, fmt.Errorf("wait: %w", err)
	}
	seen.ExitCode, seen.Reason = ended.ExitCode, ended.Reason
	if err := logs(ctx, runtime, made.Id, seen); err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	if _, err := runtime.RemoveContainer(ctx, &moorage.RemoveContainerRequest{Id: made.Id}); err != nil {
		return nil, fmt.Errorf("remove: %w", err)
	}
	_, err = runtime.GetContainer(ctx, &moorage.GetContainerRequest{Id: made.Id})
	seen.Gone = codeOf(err)
	return seen, nil
}

func pull(ctx context.Context, images moorage.ImageServiceClient, image string, seen *containerSeen) error {
	stream, err := images.PullImage(ctx, &moorage.PullImageRequest{Reference: image})
	if err != nil {
		return err
	}
	for {
		step, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		seen.ImageID = step.GetImage().GetId()
	}
}

func attach(ctx context.Context, runtime moorage.RuntimeServiceClient, id string, seen *containerSeen) error {
	stream, err := runtime.Attach(ctx)
	if err != nil {
		return err
	}
	open := &moorage.AttachRequest_Open{Id: id, Start: true, Stdin: true, Stdout: true, Stderr: true}
	if err := stream.Send(&moorage.AttachRequest{Message: &moorage.AttachRequest_Open_{Open: open}}); err != nil {
		return err
	}
	line := &moorage.AttachRequest_Stdin{Stdin: []byte("a line\n")}
	if err := stream.Send(&moorage.AttachRequest{Message: line}); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		seen.Stdout += string(answer.GetStdout())
		seen.Stderr += string(answer.GetStderr())
		if exited := answer.GetExited(); exited != nil {
			seen.AttachedExit = exited.ExitCode
		}
	}
}

func logs(ctx context.Context, runtime moorage.RuntimeServiceClient, id string, seen *containerSeen) error {
	stream, err := runtime.GetLogs(ctx, &moorage.GetLogsRequest{Id: id})
	if err != nil {
		return err
	}
	for {
		batch, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, entry := range batch.Entries {
			if entry.Stream == moorage.LogStream_LOG_STREAM_STDERR {
				seen.LoggedStderr += string(entry.Data)
			} else {
				seen.LoggedStdout += string(entry.Data)
			}
		}
	}
}
