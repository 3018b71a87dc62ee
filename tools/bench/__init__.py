"""Measures Moorage beside Debian's containerd + runc, in one run on one machine. `python -m tools.bench --help`."""
