"""The SDK's registries and indexes. See `sdk.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from moorage.client.caller import Caller
from moorage.client.streams import Push, Stream, Upload
from moorage.v1 import image_pb2, registry_pb2, registry_pb2_grpc

Auth = image_pb2.RegistryAuth | None


class Registry:
    """What registries can be asked, and what goes there beside images. `auth` is for one call only."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._stub = registry_pb2_grpc.RegistryServiceStub(caller.channel)

    def authenticate(self, registry: str, auth: image_pb2.RegistryAuth) -> bool:
        """Try credentials at a registry; answers whether it asked for any."""
        request = registry_pb2.AuthenticateRequest(registry=registry, auth=auth)
        return self._caller.unary(self._stub.Authenticate, request).asked

    def search(
        self, term: str, *, limit: int = 25, official: bool = False, min_stars: int = 0, auth: Auth = None
    ) -> Sequence[registry_pb2.FoundRepository]:
        """Repositories that a registry's search, or its catalogue, finds."""
        request = registry_pb2.SearchRegistryRequest(
            term=term, limit=limit, official=official, min_stars=min_stars, auth=auth
        )
        return self._caller.unary(self._stub.SearchRegistry, request).results

    def tags(self, repository: str, *, auth: Auth = None) -> Iterator[str]:
        """The tags of a repository, page by page."""
        request = registry_pb2.ListTagsRequest(repository=repository, auth=auth)
        for page in self._caller.pages(self._stub.ListTags, request):
            yield from page.tags

    def repositories(self, registry: str, *, auth: Auth = None) -> Iterator[str]:
        """The repositories of a registry, page by page."""
        request = registry_pb2.ListRepositoriesRequest(registry=registry, auth=auth)
        for page in self._caller.pages(self._stub.ListRepositories, request):
            yield from page.repositories

    def referrers(
        self, reference: str, *, artifact_type: str = "", auth: Auth = None
    ) -> registry_pb2.ListReferrersResponse:
        """What refers to a manifest."""
        request = registry_pb2.ListReferrersRequest(reference=reference, artifact_type=artifact_type, auth=auth)
        return self._caller.unary(self._stub.ListReferrers, request)

    def delete(self, reference: str, *, auth: Auth = None) -> str:
        """Delete a tag or manifest from its registry; answers its digest."""
        request = registry_pb2.DeleteManifestRequest(reference=reference, auth=auth)
        return self._caller.unary(self._stub.DeleteManifest, request).digest

    def manifest(self, reference: str, *, auth: Auth = None) -> registry_pb2.GetManifestResponse:
        """The manifest or index of a name: of an index here, else from the registry."""
        request = registry_pb2.GetManifestRequest(reference=reference, auth=auth)
        return self._caller.unary(self._stub.GetManifest, request)

    def create_index(
        self, name: str, images: Sequence[str], *, annotations: Mapping[str, str] | None = None, auth: Auth = None
    ) -> registry_pb2.Index:
        """Make an index of images here, or in registries."""
        request = registry_pb2.CreateIndexRequest(name=name, images=images, annotations=annotations, auth=auth)
        return self._caller.unary(self._stub.CreateIndex, request)

    def indexes(self) -> Sequence[registry_pb2.Index]:
        """The indexes here, by name."""
        return self._caller.unary(self._stub.ListIndexes, registry_pb2.ListIndexesRequest()).indexes

    def remove_index(self, name: str) -> None:
        """Delete an index here; its images stay."""
        self._caller.unary(self._stub.RemoveIndex, registry_pb2.RemoveIndexRequest(name=name))

    def blob(
        self, reference: str, digest: str, size: int, *, auth: Auth = None
    ) -> Stream[registry_pb2.GetBlobResponse]:
        """The bytes of a blob of a repository, in pieces; to be believed once the stream has ended well."""
        request = registry_pb2.GetBlobRequest(reference=reference, digest=digest, size_bytes=size, auth=auth)
        return self._caller.stream(self._stub.GetBlob, request)

    def put_blob(self, reference: str, digest: str, size: int, file: BinaryIO, *, auth: Auth = None) -> Upload:
        """Start sending a file, which can be read from any offset, to a repository as a blob; iterate over the answer to its end."""
        opening = registry_pb2.PutBlobRequest.Open(reference=reference, digest=digest, size_bytes=size, auth=auth)
        return Upload(self._stub.PutBlob, opening, file, self._caller.error)

    def put_manifest(self, reference: str, raw: bytes, media_type: str = "", *, auth: Auth = None) -> image_pb2.Pushed:
        """Send a manifest or index whose parts are there, under a tag or its digest."""
        request = registry_pb2.PutManifestRequest(reference=reference, raw=raw, media_type=media_type, auth=auth)
        return self._caller.unary(self._stub.PutManifest, request)

    def copy(
        self, source: str, destination: str, *, referrers: bool = False, auth: Auth = None, source_auth: Auth = None
    ) -> Push:
        """Start copying an image, index or artifact from one repository to another; `auth` is for the destination's registry."""
        request = registry_pb2.CopyManifestRequest(
            source=source, destination=destination, referrers=referrers, auth=auth, source_auth=source_auth
        )
        return Push(self._stub.CopyManifest(request), self._caller.error)

    def push_index(self, name: str, destination: str = "", *, auth: Auth = None) -> Push:
        """Start pushing an index with its images."""
        request = registry_pb2.PushIndexRequest(name=name, destination=destination, auth=auth)
        return Push(self._stub.PushIndex(request), self._caller.error)
