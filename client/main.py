"""The `moorage` command: the global options, the verbs (loaded when used), and what an exception becomes."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence

import click

from moorage.client.connection import TLS, default_host
from moorage.client.console import Failure, Settings, tell_error
from moorage.client.errors import MoorageError
from moorage.client.verbs import Verbs
from moorage.v1.version import VERSION

VERBS = (
    "artifact",
    "attach",
    "build",
    "builder",
    "commit",
    "completion",
    "create",
    "df",
    "doctor",
    "events",
    "exec",
    "export",
    "fsck",
    "history",
    "image",
    "images",
    "import",
    "info",
    "inspect",
    "jobs",
    "kill",
    "load",
    "login",
    "logout",
    "logs",
    "manifest",
    "network",
    "port",
    "ps",
    "pull",
    "push",
    "registry",
    "rm",
    "rmi",
    "run",
    "save",
    "search",
    "start",
    "stats",
    "stop",
    "tag",
    "top",
    "version",
    "viz",
    "wait",
)
"""Each is `command` in the module of the same name in `moorage.client.commands`."""

INTERRUPTED = 130
PIPE_CLOSED = 141


class Program(Verbs):
    """All of them."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader has gone: keep the interpreter's last flush from failing on the same pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Failure(PIPE_CLOSED) from None


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"moorage {VERSION}")
        ctx.exit()


# `import` is a word of Python's.
@click.command(
    cls=Program,
    verbs={verb: verb.replace("import", "import_") for verb in VERBS},
    context_settings={"max_content_width": 100},
)
@click.option("-H", "--host", metavar="URL", help="The daemon: unix:///path or tcp://host:port (also MOORAGE_HOST).")
@click.option(
    "--tls-ca", metavar="FILE", default="", envvar="MOORAGE_TLS_CA", help="Who signed the daemon's certificate."
)
@click.option("--tls-cert", metavar="FILE", default="", envvar="MOORAGE_TLS_CERT", help="This client's certificate.")
@click.option("--tls-key", metavar="FILE", default="", envvar="MOORAGE_TLS_KEY", help="This client's key.")
@click.option("--insecure-loopback", is_flag=True, help="Allow tcp:// without TLS to a daemon on loopback.")
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version."
)
@click.pass_context
def cli(
    ctx: click.Context, host: str | None, tls_ca: str, tls_cert: str, tls_key: str, insecure_loopback: bool
) -> None:
    """Run containers with a Moorage daemon."""
    ctx.obj = Settings(host or default_host(), TLS(tls_ca, tls_cert, tls_key), insecure_loopback)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, that of this process if no arguments are given; answers the exit code."""
    if arguments is None:
        # A process of its own is too short-lived to look for garbage often, and at its end there is no use in it.
        gc.set_threshold(50_000)
        atexit.register(gc.freeze)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        result = cli.main(args=arguments, prog_name="moorage", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Failure as failure:
        if failure.error is not None:
            tell_error(failure.error)
        return failure.exit_code
    except MoorageError as error:
        tell_error(error)
        return 1
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
