"""libnftables in process (libnftables(3)), and the number of the ruleset's generation."""

from __future__ import annotations

import ctypes
import struct
import threading
from functools import cache
from typing import Protocol

from moorage.server.errors import FailedPrecondition, Internal
from moorage.server.networkdriver import netlink
from moorage.server.networkdriver.netlink import Netlink

LIBRARY = "libnftables.so.1"
HINT = "install nftables (Debian: libnftables1) and use a kernel with CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT and CONFIG_NFT_FIB_INET"

NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_GETGEN = 16
NFTA_GEN_ID = 1
_NFGENMSG = struct.Struct(">BBH")


class Nftables(Protocol):
    """What runs nft commands. Thread-safe."""

    def run(self, commands: str) -> str:
        """Run commands in one transaction and answer what they print. Raises Internal with nft's words."""
        ...

    def generation(self) -> int:
        """A number that counts up by one with every change of the ruleset, whoever made it."""
        ...


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise FailedPrecondition(f"cannot load {LIBRARY}: {error}", reason="NO_NFTABLES", hint=HINT) from error
    context = ctypes.c_void_p
    library.nft_ctx_new.argtypes, library.nft_ctx_new.restype = [ctypes.c_uint32], context
    library.nft_ctx_free.argtypes, library.nft_ctx_free.restype = [context], None
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        function = getattr(library, name)
        function.argtypes, function.restype = [context], ctypes.c_int
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        function = getattr(library, name)
        function.argtypes, function.restype = [context], ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [context, ctypes.c_char_p]
    library.nft_run_cmd_from_buffer.restype = ctypes.c_int
    return library


class LibNftables:
    """One context kept open, in the network namespace of the thread that made it."""

    def __init__(self) -> None:
        """Raises FailedPrecondition when the library or the kernel's nf_tables is missing."""
        self._lock = threading.Lock()
        self._library = _library()
        self._context = self._library.nft_ctx_new(0)
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        try:
            self._netlink = Netlink(netlink.NETLINK_NETFILTER)
            self.generation()
        except OSError as error:
            message = f"cannot use nf_tables of this kernel: {error.strerror}"
            raise FailedPrecondition(message, reason="NO_NFTABLES", hint=HINT, errno=error.errno) from error

    def close(self) -> None:
        with self._lock:
            self._netlink.close()
            self._library.nft_ctx_free(self._context)
            self._context = None

    def run(self, commands: str) -> str:
        with self._lock:
            code = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
            output = self._library.nft_ctx_get_output_buffer(self._context) or b""
            error = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if code:
            raise Internal(f"cannot change nftables: {_first_line(error)}", stage="firewall", hint=HINT)
        return bytes(output).decode(errors="replace")

    def generation(self) -> int:
        answer = self._netlink.get(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, _NFGENMSG.pack(0, 0, 0))
        return int.from_bytes(netlink.attributes(answer, _NFGENMSG.size)[NFTA_GEN_ID], "big")


def _first_line(error: bytes) -> str:
    lines = error.decode(errors="replace").strip().splitlines()
    return lines[0].removeprefix("Error: ") if lines else "no reason given"
