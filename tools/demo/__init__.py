"""Shows a container's life from a registry to its removal, each step with its duration. `make demo`."""
