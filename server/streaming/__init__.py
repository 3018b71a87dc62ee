"""CRI's streaming server: exec, attach and port-forward over HTTP upgrades to SPDY/3.1 and WebSocket."""
