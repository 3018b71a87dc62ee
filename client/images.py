"""The SDK's images. See `sdk.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import BinaryIO, Literal

from moorage.client.caller import Caller, pieces, timestamp
from moorage.client.streams import Pull, Push, Stream
from moorage.v1 import image_pb2, image_pb2_grpc


class Images:
    """The images of the daemon, and pulling more."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._stub = image_pb2_grpc.ImageServiceStub(caller.channel)

    def pull(
        self,
        reference: str,
        *,
        platform: image_pb2.Platform | None = None,
        auth: image_pb2.RegistryAuth | None = None,
        policy: Literal["always", "missing", "never"] = "always",
    ) -> Pull:
        """Start pulling; iterate over the answer for progress, or call its `result()` for the image."""
        request = image_pb2.PullImageRequest(
            reference=reference, platform=platform, auth=auth, policy=f"PULL_POLICY_{policy.upper()}"
        )
        return Pull(self._stub.PullImage(request), self._caller.error)

    def push(
        self,
        reference: str,
        destination: str = "",
        *,
        auth: image_pb2.RegistryAuth | None = None,
        all_platforms: bool = False,
    ) -> Push:
        """Start pushing, under `destination` or its own name; iterate over the answer, or call its `result()`. With `all_platforms` the
        index that it was pulled by goes, with all that it lists."""
        request = image_pb2.PushImageRequest(
            reference=reference, destination=destination, auth=auth, all_platforms=all_platforms
        )
        return Push(self._stub.PushImage(request), self._caller.error)

    def list(
        self,
        reference: str = "",
        *,
        dangling: bool | None = None,
        labels: Mapping[str, str] | None = None,
        before: str = "",
        since: str = "",
        patterns: Iterable[str] = (),
    ) -> list[image_pb2.Image]:
        """Images, newest first: all, or those of a repository or reference. The other arguments narrow it down, all together."""
        request = image_pb2.ListImagesRequest(
            reference=reference, dangling=dangling, labels=labels, before=before, since=since, patterns=list(patterns)
        )
        pages = self._caller.pages(self._stub.ListImages, request)
        return [image for page in pages for image in page.images]

    def get(self, reference: str) -> image_pb2.Image:
        """One image by reference, digest or unique ID prefix."""
        return self._caller.unary(self._stub.GetImage, image_pb2.GetImageRequest(reference=reference))

    def remove(self, reference: str, *, force: bool = False) -> image_pb2.RemoveImageResponse:
        """Remove a tag, or by ID the image with all its tags; with `force` its names go even while containers hold it."""
        return self._caller.unary(
            self._stub.RemoveImage, image_pb2.RemoveImageRequest(reference=reference, force=force)
        )

    def prune(
        self, *, all: bool = False, labels: Mapping[str, str] | None = None, until: datetime | None = None
    ) -> image_pb2.PruneImagesResponse:
        """Delete images that no container holds: those without a tag, or `all`."""
        request = image_pb2.PruneImagesRequest(all=all, labels=labels, until=timestamp(until))
        return self._caller.unary(self._stub.PruneImages, request)

    def save(
        self,
        references: Iterable[str],
        *,
        format: image_pb2.ArchiveFormat = image_pb2.ARCHIVE_FORMAT_OCI,
        all_platforms: bool = False,
    ) -> Stream[image_pb2.SaveImagesResponse]:
        """Images as one tar archive, in pieces; with `all_platforms` their indexes, with all that they list."""
        request = image_pb2.SaveImagesRequest(references=list(references), format=format, all_platforms=all_platforms)
        return self._caller.stream(self._stub.SaveImages, request)

    def load(self, archive: BinaryIO) -> Stream[image_pb2.LoadImagesResponse]:
        """Take the images of an archive in; iterate over the answer for progress, and for the images as they come."""
        requests = (image_pb2.LoadImagesRequest(data=piece) for piece in pieces(archive))
        return Stream(self._stub.LoadImages(requests), self._caller.error)

    def import_(
        self,
        archive: BinaryIO,
        reference: str = "",
        *,
        message: str = "",
        changes: Iterable[str] = (),
        platform: image_pb2.Platform | None = None,
    ) -> Stream[image_pb2.ImportImageResponse]:
        """Make an image of one layer out of the tar of a root file system; the last answer has the image."""
        opening = image_pb2.ImportImageRequest.Open(
            reference=reference, message=message, changes=list(changes), platform=platform
        )

        def requests() -> Iterator[image_pb2.ImportImageRequest]:
            yield image_pb2.ImportImageRequest(open=opening)
            for piece in pieces(archive):
                yield image_pb2.ImportImageRequest(data=piece)

        return Stream(self._stub.ImportImage(requests()), self._caller.error)

    def tag(self, source: str, target: str) -> image_pb2.Image:
        """Give an image one more name."""
        return self._caller.unary(self._stub.TagImage, image_pb2.TagImageRequest(source=source, target=target))

    def history(self, reference: str) -> Sequence[image_pb2.ImageHistoryEntry]:
        """How an image was made, the last step first."""
        request = image_pb2.GetImageHistoryRequest(reference=reference)
        return self._caller.unary(self._stub.GetImageHistory, request).entries
