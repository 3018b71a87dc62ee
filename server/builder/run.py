"""The run of a build: stages side by side where they can be, their steps one after the other, each a layer or found in the cache.

stage      begins with an image, another stage, or nothing; waits for those it copies from when it comes to that
step       its key is looked up; without an entry a writable layer is made on top of the stage's, changed, and committed as a layer
at the end the target's layers become an image with its names; of all else only the cache leads to what was made
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

from moorage.server.builder.agents import Agents
from moorage.server.builder.base import BuildOptions, House, RunSpec
from moorage.server.builder.cache import BuildCache, CacheEntry, key_of
from moorage.server.builder.context import BuildContext
from moorage.server.builder.copying import Copier, Prepared
from moorage.server.builder.imagespec import ImageSpec
from moorage.server.builder.known import KnownSteps
from moorage.server.builder.layout import Action, CopyAction, DirectoryAction, RunAction, Step, lay_out
from moorage.server.builder.parse import parse
from moorage.server.builder.plan import SCRATCH, NamedContext, Origin, Plan, Stage, plan
from moorage.server.builder.progress import BuildEvent, StepBegun, StepEnded, StepOutput, Warned
from moorage.server.builder.running import Furnished, Given, Means, Shown, Workshop, told
from moorage.server.builder.source import Place
from moorage.server.builder.stage import StageState, of_image
from moorage.server.builder.trees import Sources, Trees
from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition, InvalidArgument, MoorageError
from moorage.server.graph.drivers.base import Sink
from moorage.server.graph.graph import Graph
from moorage.server.graph.packing import MadeLayer
from moorage.server.model import Image, Mount, Platform
from moorage.server.registry.buildcache import CachedStep

Emit = Callable[[BuildEvent], None]
SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True)
class Tools:
    """What builds share."""

    graph: Graph
    cache: BuildCache
    trees: Trees
    workshop: Workshop
    platform: Platform


class Build:
    """One build, on an event loop. `contexts` are by their names, that of the build's own is empty; `emit` takes its progress."""

    def __init__(
        self,
        tools: Tools,
        house: House,
        options: BuildOptions,
        contexts: Mapping[str, BuildContext],
        agents: Agents,
        emit: Emit,
        cancel: CancelToken,
    ) -> None:
        self._tools = tools
        self._house = house
        self._options = options
        self._contexts = contexts
        self._given = Given(options.secrets, agents)
        self._emit = emit
        self._cancel = cancel
        self._plan = planned(options, tools.platform)
        self._copier = Copier(tools.graph, tools.trees, tools.workshop.repositories, options.epoch, cancel)
        self._ids = itertools.count(1)
        self._stages: dict[int, asyncio.Task[StageState]] = {}
        self._images: dict[str, asyncio.Task[Image]] = {}
        self._known = KnownSteps(tools.graph, tools.cache, house, options, lambda text: emit(Warned(text)), cancel)
        self._steps: dict[str, CachedStep] = {}

    async def run(self) -> Image | None:
        """Build the target; answers its image, if one is to be made.

        Raises InvalidArgument with the place, FailedPrecondition when a command fails; nothing has a name then.
        """
        if self._plan.unused:
            self._emit(Warned(f"build arguments that no ARG takes: {', '.join(self._plan.unused)}"))
        with self._tools.graph.lease(), _closing(self._copier):
            try:
                await self._import_caches()
                async with asyncio.TaskGroup() as group:
                    self._group = group
                    for index in self._plan.needed:
                        self._stage(index)
                state = self._stages[self._plan.target].result()
                await self._export_caches(state)
                if self._options.files:
                    await self._send_files(state)
                return await self._finish(state)
            except ExceptionGroup as group_error:
                raise first_of(group_error) from None
            finally:
                await self._drop_images()

    async def _drop_images(self) -> None:
        """End the pulls that nobody waits for any more."""
        for task in self._images.values():
            task.cancel()
        if self._images:
            await asyncio.gather(*self._images.values(), return_exceptions=True)

    def _stage(self, index: int) -> asyncio.Task[StageState]:
        """A stage's task, begun when it is first asked for."""
        if index not in self._stages:
            self._stages[index] = self._group.create_task(self._build_stage(self._plan.stages[index]))
        return self._stages[index]

    async def _send_files(self, state: StageState) -> None:
        """Send the client the target's files."""
        view = self._tools.graph.driver.view(state.chain_id)

        def produce(sink: Sink, cancel: CancelToken) -> None:
            self._tools.trees.take(view, Sources((".",)), "exporting files", sink, cancel)

        async with self._step("exporting files", "export"):
            await self._house.send(produce)

    async def _finish(self, state: StageState) -> Image | None:
        """Make the image, and have the cache believed after a power loss."""
        options = self._options
        if options.files and not options.tags:
            await self._house.blocking(self._settle)
            return None
        async with self._step("exporting to image", "export"):
            state.spec.add_labels(dict(options.labels))
            config = state.config(self._tools.platform, inline_cache=options.inline_cache)
            image = await self._house.blocking(self._register, config, state)
            self._known.settle()
        return cast(Image, image)

    def _settle(self) -> None:
        self._tools.graph.sync()
        self._known.settle()

    def _register(self, config: bytes, state: StageState) -> Image:
        self._cancel.check()
        return self._tools.graph.make_image(config, state.blobs, tags=self._options.tags, action="build")

    # --- stages -------------------------------------------------------------------------------------------------------

    async def _build_stage(self, stage: Stage) -> StageState:
        total = len(stage.instructions) + 1
        state = await self._base(stage, total)
        layout = lay_out(self._plan, stage, state.spec)
        total = len(layout.steps) + 1
        for needed in layout.needs:
            self._stage(needed)
        for number, step in enumerate(layout.steps, 2):
            name = f"[{stage.label} {number}/{total}] {step.text}"
            if step.action is None:
                state.add_history(step.text, empty=True)
                continue
            await self._do(name, stage, step, step.action, state)
        state.spec = layout.spec
        return state

    async def _base(self, stage: Stage, total: int) -> StageState:
        if stage.parent is not None:
            return (await self._stage(stage.parent)).copy()
        if stage.context is not None:
            return await self._base_of_files(stage, self._contexts[stage.context.name])
        if stage.image.lower() == SCRATCH:
            return StageState(ImageSpec(), created_ns=(self._options.epoch or 0) * 10**9)
        async with self._step(f"[{stage.label} 1/{total}] {stage.text}", stage.label) as progress:
            image = await self._image(stage.image, stage.place, progress.status)
            return cast(StageState, await self._house.blocking(of_image, self._tools.graph, image, stage.image))

    async def _base_of_files(self, stage: Stage, context: BuildContext) -> StageState:
        """A stage that begins with the files of a named context."""
        state = StageState(ImageSpec(), created_ns=(self._options.epoch or 0) * 10**9)
        entry = await self._layer_of(context, "", stage.place)
        if entry.blob is not None:
            state.add_layer(entry.blob, state.created_ns)
            state.add_history(stage.text, empty=False)
        return state

    async def _image(self, reference: str, place: Place, status: Callable[[str], None]) -> Image:
        """An image by reference, looked up once in a build."""
        if reference not in self._images:
            getting = self._house.image(reference, pull=self._options.pull, status=status)
            self._images[reference] = asyncio.get_running_loop().create_task(_as_coroutine(getting))
        try:
            return await asyncio.shield(self._images[reference])
        except MoorageError as error:
            raise _at(place, error) from error

    async def _import_caches(self) -> None:
        """`--cache-from`."""
        for reference in self._options.cache_from:
            async with self._step(f"importing cache from {reference}", "cache") as progress:
                await self._known.take_over(reference, progress.status)

    async def _export_caches(self, state: StageState) -> None:
        """`--cache-to`. Before the image has its names: a build that cannot leave its cache has failed."""
        for export in self._options.cache_to:
            async with self._step(f"exporting cache to {export.reference}", "cache") as progress:
                steps = list(self._steps.values()) if export.all_stages else state.steps
                lacking = await self._house.export_cache(export.reference, steps, progress.status)
                if lacking:
                    self._emit(
                        Warned(f"{export.reference}: {lacking} steps are left out, as their layers' blobs are not here")
                    )

    # --- steps --------------------------------------------------------------------------------------------------------

    async def _do(self, name: str, stage: Stage, step: Step, action: Action, state: StageState) -> None:
        """Do a step, or find it done, and add to the stage what it made."""
        async with self._step(name, stage.label) as progress:
            work = await self._prepare(step, action, state, progress)
            key = key_of("" if work.linked else state.chain_id, {**work.key, "clamp": self._options.epoch})
            entry = await self._known.find(key, state.chain_id, progress.status, linked=work.linked)
            if entry is not None:
                progress.cached = True
            else:
                self._cancel.check()
                entry = self._known.remember(key, state.chain_id, await work.make(), step.text)
            made = CachedStep(key, state.chain_id, entry.created_ns, step.text, entry.blob)
            state.steps.append(made)
            self._steps[key] = made
            if entry.blob is not None:
                state.add_layer(entry.blob, entry.created_ns)
            state.add_history(step.text, empty=entry.blob is None)

    async def _prepare(self, step: Step, action: Action, state: StageState, progress: _Progress) -> _Work:
        """What a step's key is made of, and how it is done."""
        match action:
            case DirectoryAction():
                path = action.path
                return _Work(
                    {"directory": path}, lambda: self._changed(state.chain_id, self._tools.trees.have_directory, path)
                )
            case CopyAction():
                return await self._prepare_copy(step.place, action, state, progress)
        shown = [await self._shown(action, number, step.place, progress) for number in range(len(action.mounts))]
        network = action.network or self._options.network
        key = {**told(action, shown), "network": network, **self._options.around}

        async def make() -> MadeLayer | None:
            with _placed(step.place):
                return await self._run(action, shown, step.place, state, progress)

        return _Work(key, make)

    async def _prepare_copy(self, place: Place, action: CopyAction, state: StageState, progress: _Progress) -> _Work:
        origin = await self._origin(action.origin, place, progress)
        if action.link:
            action = await self._house.blocking(self._copier.with_numbers, action, place, state.chain_id)
        with _placed(place):
            prepared = await self._house.blocking(self._copier.prepare, action, place, origin)

        async def make() -> MadeLayer | None:
            with _placed(place):
                if action.link:
                    # Into nothing, and then on top of what is there.
                    return await self._changed("", self._copier.put, prepared, state.chain_id)
                return await self._changed(state.chain_id, self._copier.put, prepared)

        return _Work(prepared.key, make, linked=action.link)

    async def _origin(self, origin: Origin | None, place: Place, progress: _Progress) -> str | BuildContext:
        """The chain ID of what `--from` means, or the context."""
        if origin is None:
            return self._contexts[""]
        if isinstance(origin, NamedContext):
            return self._contexts[origin.name]
        if isinstance(origin, int):
            chain_id = (await self._stage(origin)).chain_id
        else:
            image = await self._image(origin, place, progress.status)
            chain_id = image.layers[-1].chain_id if image.layers else ""
        if not chain_id:
            raise place.error("there are no files in what it copies from")
        return chain_id

    async def _changed(
        self, chain_id: str, change: Callable[..., None], argument: Any, onto: str | None = None
    ) -> MadeLayer | None:
        """A layer of what `change` does to a root file system, on top of the same chain or of another one."""
        return cast(MadeLayer | None, await self._house.blocking(self._change, chain_id, change, argument, onto))

    def _change(
        self, chain_id: str, change: Callable[..., None], argument: Any, onto: str | None = None
    ) -> MadeLayer | None:
        driver = self._tools.graph.driver
        with self._writable(chain_id) as id:
            change(driver.rootfs(id), argument)
            return self._commit(id, onto)

    @contextmanager
    def _writable(self, chain_id: str) -> Any:
        """A writable layer, gone after the block."""
        driver, id = self._tools.graph.driver, secrets.token_hex(32)
        driver.create(id, chain_id)
        try:
            yield id
        finally:
            driver.remove(id)

    def _commit(self, id: str, onto: str | None = None) -> MadeLayer | None:
        return self._tools.graph.commit_changes(id, self._cancel, clamp_seconds=self._options.epoch, onto=onto)

    def _put_in_nothing(self, prepared: Prepared) -> MadeLayer:
        """A layer of a copy alone, also where there is nothing to copy."""
        graph = self._tools.graph
        with self._writable("") as id:
            self._copier.put(graph.driver.rootfs(id), prepared)
            return graph.commit_layer(id, self._cancel, move=True, clamp_seconds=self._options.epoch)

    # --- RUN ----------------------------------------------------------------------------------------------------------

    async def _run(
        self, action: RunAction, shown: Sequence[Shown], place: Place, state: StageState, progress: _Progress
    ) -> MadeLayer | None:
        graph, trees, id = self._tools.graph, self._tools.trees, secrets.token_hex(32)
        shop, means = self._tools.workshop, Means(graph.view, self._house.blocking, self._cancel)
        async with (
            shop.copied(id, action, shown, means) as own,
            shop.furnish(id, action, own, self._given, means, place) as furnished,
        ):
            await self._house.blocking(graph.driver.create, id, state.chain_id)
            try:
                rootfs = graph.driver.rootfs(id)
                stubs = await self._house.blocking(trees.missing, rootfs, furnished.stubs)
                await self._run_container(_spec(id, action, furnished, state, self._options), place, progress)
                if stubs.paths:
                    await self._house.blocking(trees.sweep, rootfs, stubs)
                return cast(MadeLayer | None, await self._house.blocking(self._commit, id))
            finally:
                await asyncio.shield(self._house.blocking(graph.driver.remove, id))

    async def _run_container(self, spec: RunSpec, place: Place, progress: _Progress) -> None:
        async with self._house.container(spec, progress.output) as execute:
            code = await execute()
        if code:
            shown = " ".join(spec.args[2:] if spec.args[1:2] == ("-c",) else spec.args)
            raise FailedPrecondition(
                f"{place}: RUN {shown[:200]}: exit code {code}",
                reason="COMMAND_FAILED",
                hint="its output tells why",
                exit_code_of_command=code,
                line=place.line,
            )

    async def _shown(self, action: RunAction, number: int, place: Place, progress: _Progress) -> Shown:
        """What a mount shows."""
        mount, origin = action.mounts[number], action.origins[number]
        if mount.kind != "bind" and origin is None:
            return Shown()
        path = mount.source.strip("/").removeprefix("./")
        path = "" if path == "." else path
        files = await self._origin(origin, place, progress)
        return Shown(view=files, path=path) if isinstance(files, str) else await self._shown_of(files, path, place)

    async def _shown_of(self, context: BuildContext, path: str, place: Place) -> Shown:
        """A context, or a file or directory of it, as a layer of its own that is shown."""
        entry = context.get(path) if path else None
        if path and (entry is None or entry.kind == "link" or context.leads_through_link(path)):
            raise place.error(f"RUN --mount=type=bind,source={path}: no such file or directory in the context")
        found = await self._layer_of(context, path, place)
        if entry is None or entry.kind == "directory":
            return Shown(view=found.chain_id, path=path)
        (mount,) = self._tools.graph.driver.view(found.chain_id)
        return Shown(path=found.chain_id, host=f"{mount.source}/{path}")

    async def _layer_of(self, context: BuildContext, path: str, place: Place) -> CacheEntry:
        """A layer of a context, or of a file or directory of it."""
        action = CopyAction("RUN --mount", (path or ".",), (), (), "/" if not path else f"/{path}")
        prepared = await self._house.blocking(self._copier.prepare, action, place, context)
        key = key_of("", prepared.key)
        found = self._tools.cache.find(key)
        if found is None:
            made = await self._house.blocking(self._put_in_nothing, prepared)
            found = self._tools.cache.add(
                key, made.layer.chain_id, made.blob, text=f"context {path}", created_ns=time.time_ns()
            )
        self._known.use(key)
        return found

    # --- progress -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _step(self, name: str, stage: str) -> AsyncIterator[_Progress]:
        progress = _Progress(next(self._ids), self._emit)
        began = time.monotonic()
        self._emit(StepBegun(progress.id, name, stage))
        try:
            yield progress
        except BaseException as error:
            message = error.message if isinstance(error, MoorageError) else "cancelled"
            self._emit(StepEnded(progress.id, time.monotonic() - began, error=message))
            raise
        self._emit(StepEnded(progress.id, time.monotonic() - began, progress.cached))


class _Progress:
    """Tells of one step."""

    def __init__(self, id: int, emit: Emit) -> None:
        self.id = id
        self.cached = False
        self._emit = emit

    def output(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        self._emit(StepOutput(self.id, stream, data))

    def status(self, text: str) -> None:
        self._emit(StepOutput(self.id, "status", text.encode()))


@dataclass(frozen=True)
class _Work:
    """`linked`: its layer is the same whatever is below."""

    key: dict[str, Any]
    make: Callable[[], Awaitable[MadeLayer | None]]
    linked: bool = False


def planned(options: BuildOptions, platform: Platform) -> Plan:
    """Read and arrange a Dockerfile. Raises InvalidArgument with the place."""
    dockerfile = parse(options.dockerfile, options.file)
    return plan(
        dockerfile, target=options.target, arguments=options.arguments, contexts=options.contexts, platform=platform
    )


def _spec(id: str, action: RunAction, furnished: Furnished, state: StageState, options: BuildOptions) -> RunSpec:
    own = any(mount.target == SHARED_MEMORY for mount in furnished.mounts)
    memory = (Mount("tmpfs", SHARED_MEMORY, size=options.shm_size),) if options.shm_size and not own else ()
    return RunSpec(
        id=id,
        image=state.reference or SCRATCH,
        args=action.args,
        env=action.env,
        private_env=(*action.hidden, *furnished.env),
        working_dir=action.working_dir,
        user=action.user,
        network=action.network or options.network,
        mounts=(*memory, *furnished.mounts),
        mounted=furnished.mounted,
        extra_hosts=options.extra_hosts,
        rlimits=options.rlimits,
    )


@contextmanager
def _closing(copier: Copier) -> Any:
    try:
        yield
    finally:
        copier.close()


async def _as_coroutine(awaitable: Awaitable[Image]) -> Image:
    return await awaitable


@contextmanager
def _placed(place: Place) -> Iterator[None]:
    """Errors of the block name the place."""
    try:
        yield
    except MoorageError as error:
        raise _at(place, error) from error


def _at(place: Place, error: MoorageError) -> MoorageError:
    """An error of the same kind that names the place."""
    if error.message.startswith(str(place)):
        return error
    again = type(error)(f"{place}: {error.message}", reason=error.reason, hint=error.hint)
    again.metadata.update(error.metadata)
    return again


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to tell of several stages' errors."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return first_of(error)
        if not isinstance(error, asyncio.CancelledError):
            return error
    return InvalidArgument("the build was cancelled")
