"""`runtime.v1`, Kubernetes' container runtime interface, over the same jobs as `moorage.v1`."""
