"""`moorage build`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moorage.client import format, parse
from moorage.client.console import Parsed, Settings, pass_settings, say, tell
from moorage.client.files import write_archive

if TYPE_CHECKING:
    from moorage.client.buildinputs import Inputs
    from moorage.client.buildprogress import Show
    from moorage.client.builds import Build
    from moorage.client.sdk import Client
    from moorage.v1 import build_pb2


@click.command()
@click.argument("context", metavar="DIRECTORY|URL|-")
@click.option("-t", "--tag", "tags", multiple=True, metavar="NAME[:TAG]", help="Name of the image; several are fine.")
@click.option(
    "-f", "--file", default="", metavar="PATH", help="The Dockerfile, - for stdin.  [default: DIRECTORY/Dockerfile]"
)
@click.option(
    "--build-context",
    "build_contexts",
    multiple=True,
    metavar="NAME=DIRECTORY|docker-image://IMAGE|URL",
    help="What FROM NAME and --from=NAME mean.",
)
@click.option("--target", default="", help="The stage to build.  [default: the last]")
@click.option(
    "--build-arg",
    "build_args",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Value of an ARG (of the environment).",
)
@click.option("--label", "labels", multiple=True, metavar="NAME[=VALUE]", help="Label of the image.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="id=NAME[,src=PATH|,env=VAR]",
    help="Secret for RUN --mount=type=secret.",
)
@click.option(
    "--platform",
    type=Parsed("OS/ARCH[/VARIANT]", parse.platform),
    default=None,
    help="Platform: the daemon's own.",
)
@click.option(
    "--network", default="", metavar="NAME", help="Network of RUN steps: bridge, host, none, or a network's name."
)
@click.option(
    "--add-host", multiple=True, type=Parsed("NAME:IP", parse.host_entry), help="Line of /etc/hosts of RUN steps."
)
@click.option(
    "--ulimit", multiple=True, type=Parsed("NAME=SOFT[:HARD]", parse.ulimit), help="Resource limit of RUN steps."
)
@click.option(
    "--shm-size", type=Parsed("SIZE", parse.size), default=0, help="Size of /dev/shm of RUN steps.  [default: 64m]"
)
@click.option("--no-cache", is_flag=True, help="Do every step, whatever is cached.")
@click.option("--pull", is_flag=True, help="Pull the images it builds on even when they are here.")
@click.option(
    "--cache-from",
    multiple=True,
    metavar="NAME",
    help="Take over what an image, or a cache, in a registry has of steps.",
)
@click.option(
    "--cache-to",
    multiple=True,
    metavar="inline|type=registry,ref=NAME[,mode=min|max]",
    help="Have the image tell of its steps; or leave what they made in a registry, with max that of all stages.",
)
@click.option(
    "--ssh",
    multiple=True,
    metavar="ID[=SOCKET]",
    help="SSH agent for RUN --mount=type=ssh: default for that of the environment.",
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "json"]),
    default="auto",
    show_default=True,
    help="How to show progress: json on stdout, the others on stderr.",
)
@click.option(
    "--iidfile", type=click.Path(dir_okay=False, path_type=Path), default=None, help="File to write the image's ID to."
)
@click.option(
    "-o",
    "--output",
    default="",
    metavar="DIRECTORY|-|type=local|tar,dest=PATH",
    help="Where to leave the files of the target instead of an image: a directory, or a tar archive. With -t there is one too.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Build nothing: tell what the Dockerfile says that is seldom meant, and exit 1 for any.",
)
@click.option("--push", is_flag=True, help="Send the image to its registry under every --tag.")
@click.option("--load", is_flag=True, help="Nothing: the daemon has what it builds.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; print only the ID.")
@pass_settings
def command(settings: Settings, context: str, file: str, **options: Any) -> None:
    """Build an image of a Dockerfile and the files in DIRECTORY, or in the git repository at URL, https://….git#ref:directory.

    What a .dockerignore file names is no part of the context. With - the Dockerfile comes from stdin, and there is no
    context; or a tar archive comes from there, which is the context.
    """
    from moorage.client.buildinputs import inputs
    from moorage.client.buildprogress import progress

    if options["push"] and not options["tags"]:
        raise click.UsageError("--push needs a --tag to push")
    agents = _agents(options["ssh"])
    output = _output(options)
    with (
        inputs(context, file, options["build_contexts"]) as given,
        settings.client() as client,
        client.builds.build(_opening(given, options), given.local, agents=agents) as build,
    ):
        if options["iidfile"] is not None:
            options["iidfile"].unlink(missing_ok=True)
        with progress(options["progress"], options["quiet"] and not options["check"]) as show:
            if options["check"]:
                _check(build, show)
                return
            pieces = _files(build, show)
            if output is not None:
                output.write(pieces)
            for _ in pieces:
                pass
        image = build.result() if output is None else build.image
        if image is not None and options["push"]:
            for tag in options["tags"]:
                _push(client, tag, options["quiet"] or options["progress"] == "json")
    if image is None:
        return
    if options["iidfile"] is not None:
        options["iidfile"].write_text(image.id)
    if output is not None and output.to_stdout:
        return
    if options["quiet"]:
        say(image.id)
    elif options["progress"] != "json":
        say(f"{', '.join(options['tags']) or 'image'}: {image.id} ({format.size(image.size_bytes)})")


def _check(build: Build, show: Show) -> None:
    """Show what was found. Exits 1 when that is something."""
    found = 0
    for message in build:
        found += message.WhichOneof("message") == "warning"
        show(message)
    if found:
        sys.exit(1)


def _push(client: Client, tag: str, quiet: bool) -> None:
    from moorage.client.auth import auth_for
    from moorage.client.progress import progress

    with client.images.push(tag, auth=auth_for(tag)) as pushing, progress(quiet) as show:
        for step in pushing:
            show(step)
        pushed = pushing.result()
    if not quiet:
        tell(f"{pushed.reference}: {pushed.digest}")


def _files(build: Build, show: Show) -> Iterator[bytes]:
    """The pieces of the target's files; what else a build tells is shown."""
    for message in build:
        if message.WhichOneof("message") == "files":
            yield message.files
        else:
            show(message)


@dataclass(frozen=True)
class Output:
    """Where the target's files go: into the directory `path`, or as an archive into a file, `-` for stdout."""

    path: str
    archive: bool = False

    @property
    def to_stdout(self) -> bool:
        return self.archive and self.path == "-"

    def write(self, pieces: Iterator[bytes]) -> None:
        """Take all of a tar."""
        if self.archive:
            write_archive(pieces, self.path)
            return
        from moorage.client.extract import extract

        left_out = extract(pieces, Path(self.path))
        if left_out:
            tell(f"left out, as they are no files, directories or links: {left_out}")


def _output(options: dict[str, Any]) -> Output | None:
    text = options["output"]
    if not text:
        return None
    parts = (
        dict(part.partition("=")[::2] for part in text.split(",")) if "=" in text else {"type": "local", "dest": text}
    )
    if text == "-":
        parts = {"type": "tar", "dest": "-"}
    kind, path = parts.get("type"), parts.get("dest", "")
    if kind not in ("local", "tar") or not path or parts.keys() > {"type", "dest"} or (kind == "local" and path == "-"):
        raise click.UsageError(f"--output {text}: DIRECTORY, -, type=local,dest=DIRECTORY or type=tar,dest=FILE")
    if options["iidfile"] is not None and not options["tags"]:
        raise click.UsageError("--iidfile with --output: without --tag no image is made")
    output = Output(path, kind == "tar")
    if output.to_stdout and options["progress"] == "json":
        raise click.UsageError("--output - and --progress json are both for stdout")
    return output


def _agents(texts: tuple[str, ...]) -> dict[str, str]:
    if not texts:
        return {}
    from moorage.client.agents import sockets

    try:
        return sockets(texts)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _opening(given: Inputs, options: dict[str, Any]) -> build_pb2.BuildOpen:
    from moorage.v1 import build_pb2

    exports = [_cache_to(text) for text in options["cache_to"]]
    arguments = _pairs(options["build_args"], from_environment=True)
    if "SOURCE_DATE_EPOCH" in os.environ:
        arguments.setdefault("SOURCE_DATE_EPOCH", os.environ["SOURCE_DATE_EPOCH"])
    return build_pb2.BuildOpen(
        dockerfile=given.dockerfile,
        file_name=given.name,
        context_url=given.url,
        build_contexts=given.contexts,
        tags=options["tags"],
        target=options["target"],
        build_args=arguments,
        labels=_pairs(options["labels"]),
        secrets=dict(_secret(text) for text in options["secrets"]),
        network="" if options["network"] == "default" else options["network"],
        extra_hosts=options["add_host"],
        rlimits=options["ulimit"],
        shm_size_bytes=options["shm_size"],
        no_cache=options["no_cache"],
        pull=options["pull"],
        cache_from=[_cache_from(text) for text in options["cache_from"]],
        cache_to=[
            build_pb2.BuildCacheExport(reference=ref, all_stages=all_stages) for ref, all_stages in exports if ref
        ],
        inline_cache=any(not ref for ref, _ in exports),
        platform=options["platform"],
        files=bool(options["output"]),
        check=options["check"],
    )


def _pairs(texts: tuple[str, ...], *, from_environment: bool = False) -> dict[str, str]:
    """`NAME=VALUE`; without a value that of the environment, if there is one, or an empty one."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            raise click.UsageError(f"{text!r} has no name")
        if equals or not from_environment:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _cache_to(text: str) -> tuple[str, bool]:
    """`inline` (an empty name), or `type=registry,ref=NAME,mode=min|max`: the name, and whether all stages are meant."""
    if text in ("inline", "type=inline"):
        return "", False
    parts = dict(part.partition("=")[::2] for part in text.split(","))
    known = parts.keys() <= {"type", "ref", "mode"} and parts.get("mode", "min") in ("min", "max")
    if parts.get("type") != "registry" or not parts.get("ref") or not known:
        raise click.UsageError(f"--cache-to {text}: inline, or type=registry,ref=NAME[,mode=min|max]")
    return parts["ref"], parts.get("mode") == "max"


def _cache_from(text: str) -> str:
    """An image, or `type=registry,ref=IMAGE`."""
    parts = dict(part.partition("=")[::2] for part in text.split(",")) if text.startswith("type=") else {}
    if parts and (parts["type"] != "registry" or not parts.get("ref")):
        raise click.UsageError(f"--cache-from {text}: an image, or type=registry,ref=IMAGE")
    return parts.get("ref", text)


def _secret(text: str) -> tuple[str, bytes]:
    """`id=NAME`, with `src=PATH` or `env=VAR`; without either the environment variable NAME, or the file of that name."""
    parts = dict(part.partition("=")[::2] for part in text.split(","))
    unknown = parts.keys() - {"id", "src", "source", "env", "type"}
    identity = parts.get("id", "")
    if unknown or not identity or parts.get("type", "file") not in ("file", "env"):
        raise click.UsageError(f"--secret {text}: id=NAME,src=PATH or id=NAME,env=VAR")
    path, variable = parts.get("src") or parts.get("source"), parts.get("env")
    if not path and not variable:
        path, variable = (None, identity) if identity in os.environ else (identity, None)
    if variable:
        if variable not in os.environ:
            raise click.UsageError(f"--secret {text}: there is no environment variable {variable}")
        return identity, os.environ[variable].encode("utf-8", "surrogateescape")
    try:
        return identity, Path(str(path)).read_bytes()
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {(error.strerror or '').lower()}") from None
