// Command client runs a container through moorage.v1, or a pod through CRI, with code generated from protos/, and prints what it
// saw as JSON.
//
//	client container|pod TARGET IMAGE
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const patience = 60 * time.Second

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: client container|pod TARGET IMAGE")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func run(what, target, image string) error {
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var seen any
	switch what {
	case "container":
		seen, err = runContainer(ctx, connection, image)
	case "pod":
		seen, err = runPod(ctx, connection, image)
	default:
		err = fmt.Errorf("neither container nor pod: %s", what)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(seen)
}

// codeOf is the status of a call that should have failed.
func codeOf(err error) string {
	if code := status.Code(err); code != codes.OK {
		return code.String()
	}
	return "no error"
}
