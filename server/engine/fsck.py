"""Handler that checks the image store, and repairs it: by pulling again, or by packing a layer again that was made here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from moorage.server.cancel import CancelToken
from moorage.server.engine.engine import Lane
from moorage.server.engine.job import Job
from moorage.server.engine.layerfiles import LayerFiles
from moorage.server.engine.storecommands import CheckStep, CheckStore
from moorage.server.engine.transfers import Blocking, transfer
from moorage.server.errors import MoorageError
from moorage.server.graph.fsck import Finding
from moorage.server.graph.graph import Graph
from moorage.server.model import Image, Platform
from moorage.server.registry import reference as references
from moorage.server.registry.config import RegistryConfig
from moorage.server.registry.progress import PullProgress
from moorage.server.registry.pull import Puller

TELL_EVERY = 64 << 20
"""Bytes between two reports of progress."""

ORDER = {"lost layer": 0, "broken image": 1, "missing blob": 2, "damaged blob": 3}
"""What is dealt with first: what a pull mends, others may need."""


class Fsck:
    """The handler of `fsck`."""

    def __init__(
        self,
        engine: Blocking,
        graph: Graph,
        puller: Puller,
        config: RegistryConfig,
        running: Callable[[str], Sequence[str]],
    ) -> None:
        """`running` answers the containers of an image (full ID) that run."""
        self._engine, self._graph, self._puller = engine, graph, puller
        self._layers = LayerFiles(graph, puller, config, running)

    async def check(self, job: Job, command: CheckStore) -> AsyncIterator[CheckStep]:
        """Findings as they come, then the sum."""

        def work(tell: Callable[[CheckStep], None], cancel: CancelToken) -> None:
            self._check(command, tell, cancel)

        async for step in transfer(self._engine, job, work, Lane.ARCHIVE):
            if isinstance(step, CheckStep):
                yield step

    def _check(self, command: CheckStore, tell: Callable[[CheckStep], None], cancel: CancelToken) -> None:
        told = 0

        def progress(count: int) -> None:
            nonlocal told
            if count - told >= TELL_EVERY:
                told = count
                tell(CheckStep("progress", bytes=count))

        check = self._graph.check(cancel)
        found = check.run(self._graph.unreached(), lambda checked: progress(checked.bytes))
        findings = sorted(found, key=lambda finding: ORDER.get(finding.problem, len(ORDER)))
        if command.files:
            findings += self._layers.compared(check.checked, cancel)
        problems = left = 0
        for finding in findings:
            cancel.check()
            outcome, repaired = self._repair(finding, cancel) if command.repair else ("", False)
            harmful = finding.problem != "garbage"
            problems += harmful
            left += harmful and not repaired
            tell(CheckStep("finding", finding=finding, outcome=outcome, repaired=repaired))
        checked = check.checked
        tell(
            CheckStep(
                "done",
                bytes=checked.bytes,
                blobs=checked.blobs,
                layers=checked.layers,
                images=checked.images,
                compared=checked.compared,
                problems=problems,
                left=left,
            )
        )

    def _repair(self, finding: Finding, cancel: CancelToken) -> tuple[str, bool]:
        """What was done about it, and whether it is well again."""
        try:
            match finding.problem:
                case "garbage":
                    self._graph.discard([finding.id], [finding.id])
                    return "deleted", True
                case "damaged blob":
                    self._graph.content.delete(finding.id)
                    return self._bring_back(finding, cancel)
                case "missing blob":
                    return self._bring_back(finding, cancel)
                case "damaged layer":
                    return self._layers.restore(finding, cancel)
                case "lost layer":
                    self._graph.give_up_layer(finding.id)
                    return self._pull(finding, cancel)
                case _:
                    return self._pull(finding, cancel)
        except MoorageError as error:
            cancel.check()
            return f"cannot be repaired: {error.message}", False

    def _bring_back(self, finding: Finding, cancel: CancelToken) -> tuple[str, bool]:
        """A blob that is not there: from a registry, else packed again from its layer."""
        if not finding.images and not self._graph.layers_of_blob(finding.id):
            return "deleted", True
        try:
            self._puller.fetch(finding.id, cancel)
            return "fetched again", True
        except MoorageError as error:
            cancel.check()
            failure = error
        for chain_id, diff_id in self._graph.layers_of_blob(finding.id):
            packed = self._graph.pack_layer(chain_id, cancel)
            if packed.diff_id == diff_id:
                self._graph.replace_blob(chain_id, finding.id, packed)
                return "packed again from its layer", True
            self._graph.discard([packed.digest])
            self._graph.drop_blob(chain_id, finding.id)
            return "dropped: its layer is whole, and the blob is fetched again when it is needed", True
        return self._pull(finding, cancel, failure)

    def _pull(self, finding: Finding, cancel: CancelToken, failure: MoorageError | None = None) -> tuple[str, bool]:
        """Pull the images that suffer, by a digest that they were pulled as."""
        why = failure.message if failure else "no image that has it was pulled from a registry"
        images = [image for image in self._graph.list() if image.id in finding.images and image.digests]
        for image in images:
            for name in image.digests:
                try:
                    self._pull_one(image, name, cancel)
                    return f"pulled {name} again", True
                except MoorageError as error:
                    cancel.check()
                    why = error.message
        return f"cannot be repaired: {why}", False

    def _pull_one(self, image: Image, name: str, cancel: CancelToken) -> None:
        def unheard(step: PullProgress) -> None:
            """The finding tells of the outcome."""

        platform: Platform = image.platform
        self._puller.pull(references.parse(name), platform, None, unheard, cancel)
