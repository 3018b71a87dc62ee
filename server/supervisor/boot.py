"""The spawner's first code, run by path in a fresh interpreter without site-packages:

    python -I -S boot.py IMPORT_ROOT FD SPARES PATIENCE

IMPORT_ROOT is the directory that holds `moorage/`, FD the spawner's end of the socket to the daemon, SPARES how many
supervisors to have ready, PATIENCE how many seconds they wait until they leave a quiet pod to its keeper.
"""

from __future__ import annotations

import sys


def main() -> None:
    import_root, fd, spares, patience = sys.argv[1:]
    # In front of the standard library's directories nothing may stand: the import root may be site-packages.
    sys.path.append(import_root)
    from moorage.server.libcontainer.protect import execute_read_only

    # What runs in a container as a fork of this is no way to write to the host's interpreter.
    execute_read_only(sys.orig_argv[1:])
    from moorage.server.supervisor import spawner

    spawner.run(int(fd), int(spares), float(patience))


if __name__ == "__main__":
    main()
