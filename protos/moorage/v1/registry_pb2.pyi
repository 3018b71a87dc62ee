from moorage.v1 import image_pb2 as _image_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AuthenticateRequest(_message.Message):
    __slots__ = ("registry", "auth")
    REGISTRY_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    registry: str
    auth: _image_pb2.RegistryAuth
    def __init__(self, registry: _Optional[str] = ..., auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ...) -> None: ...

class AuthenticateResponse(_message.Message):
    __slots__ = ("asked",)
    ASKED_FIELD_NUMBER: _ClassVar[int]
    asked: bool
    def __init__(self, asked: _Optional[bool] = ...) -> None: ...

class SearchRegistryRequest(_message.Message):
    __slots__ = ("term", "limit", "official", "min_stars", "auth")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    OFFICIAL_FIELD_NUMBER: _ClassVar[int]
    MIN_STARS_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    term: str
    limit: int
    official: bool
    min_stars: int
    auth: _image_pb2.RegistryAuth
    def __init__(self, term: _Optional[str] = ..., limit: _Optional[int] = ..., official: _Optional[bool] = ..., min_stars: _Optional[int] = ..., auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ...) -> None: ...

class SearchRegistryResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[FoundRepository]
    def __init__(self, results: _Optional[_Iterable[_Union[FoundRepository, _Mapping]]] = ...) -> None: ...

class FoundRepository(_message.Message):
    __slots__ = ("name", "description", "stars", "official")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STARS_FIELD_NUMBER: _ClassVar[int]
    OFFICIAL_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    stars: int
    official: bool
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., stars: _Optional[int] = ..., official: _Optional[bool] = ...) -> None: ...

class ListTagsRequest(_message.Message):
    __slots__ = ("repository", "page_size", "page_token", "auth")
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    repository: str
    page_size: int
    page_token: str
    auth: _image_pb2.RegistryAuth
    def __init__(self, repository: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ...) -> None: ...

class ListTagsResponse(_message.Message):
    __slots__ = ("tags", "next_page_token")
    TAGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tags: _containers.RepeatedScalarFieldContainer[str]
    next_page_token: str
    def __init__(self, tags: _Optional[_Iterable[str]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListRepositoriesRequest(_message.Message):
    __slots__ = ("registry", "page_size", "page_token", "auth")
    REGISTRY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    registry: str
    page_size: int
    page_token: str
    auth: _image_pb2.RegistryAuth
    def __init__(self, registry: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ...) -> None: ...

class ListRepositoriesResponse(_message.Message):
    __slots__ = ("repositories", "next_page_token")
    REPOSITORIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    repositories: _containers.RepeatedScalarFieldContainer[str]
    next_page_token: str
    def __init__(self, repositories: _Optional[_Iterable[str]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListReferrersRequest(_message.Message):
    __slots__ = ("reference", "artifact_type", "auth")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_TYPE_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    reference: str
    artifact_type: str
    auth: _image_pb2.RegistryAuth
    def __init__(self, reference: _Optional[str] = ..., artifact_type: _Optional[str] = ..., auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ...) -> None: ...

class ListReferrersResponse(_message.Message):
    __slots__ = ("subject", "referrers")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    REFERRERS_FIELD_NUMBER: _ClassVar[int]
    subject: str
    referrers: _containers.RepeatedCompositeFieldContainer[Referrer]
    def __init__(self, subject: _Optional[str] = ..., referrers: _Optional[_Iterable[_Union[Referrer, _Mapping]]] = ...) -> None: ...

class Referrer(_message.Message):
    __slots__ = ("digest", "media_type", "artifact_type", "size_bytes", "annotations")
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    digest: str
    media_type: str
    artifact_type: str
    size_bytes: int
    annotations: _containers.ScalarMap[str, str]
    def __init__(self, digest: _Optional[str] = ..., media_type: _Optional[str] = ..., artifact_type: _Optional[str] = ..., size_bytes: _Optional[int] = ..., annotations: _Optional[_Mapping[str, str]] = ...) -> None: ...

class DeleteManifestRequest(_message.Message):
    __slots__ = ("reference", "auth")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    reference: str
    auth: _image_pb2.RegistryAuth
    def __init__(self, reference: _Optional[str] = ..., auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ...) -> None: ...

class DeleteManifestResponse(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class GetManifestRequest(_message.Message):
    __slots__ = ("reference", "auth")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    reference: str
    auth: _image_pb2.RegistryAuth
    def __init__(self, reference: _Optional[str] = ..., auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ...) -> None: ...

class GetManifestResponse(_message.Message):
    __slots__ = ("raw", "digest", "media_type", "local")
    RAW_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    raw: bytes
    digest: str
    media_type: str
    local: bool
    def __init__(self, raw: _Optional[bytes] = ..., digest: _Optional[str] = ..., media_type: _Optional[str] = ..., local: _Optional[bool] = ...) -> None: ...

class Index(_message.Message):
    __slots__ = ("name", "digest", "media_type", "entries")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    media_type: str
    entries: _containers.RepeatedCompositeFieldContainer[IndexEntry]
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., media_type: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[IndexEntry, _Mapping]]] = ...) -> None: ...

class IndexEntry(_message.Message):
    __slots__ = ("digest", "size_bytes", "platform", "source")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size_bytes: int
    platform: _image_pb2.Platform
    source: str
    def __init__(self, digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., platform: _Optional[_Union[_image_pb2.Platform, _Mapping]] = ..., source: _Optional[str] = ...) -> None: ...

class CreateIndexRequest(_message.Message):
    __slots__ = ("name", "images", "annotations", "auth")
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    images: _containers.RepeatedScalarFieldContainer[str]
    annotations: _containers.ScalarMap[str, str]
    auth: _image_pb2.RegistryAuth
    def __init__(self, name: _Optional[str] = ..., images: _Optional[_Iterable[str]] = ..., annotations: _Optional[_Mapping[str, str]] = ..., auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ...) -> None: ...

class ListIndexesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListIndexesResponse(_message.Message):
    __slots__ = ("indexes",)
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    indexes: _containers.RepeatedCompositeFieldContainer[Index]
    def __init__(self, indexes: _Optional[_Iterable[_Union[Index, _Mapping]]] = ...) -> None: ...

class RemoveIndexRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RemoveIndexResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetBlobRequest(_message.Message):
    __slots__ = ("reference", "digest", "size_bytes", "auth")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    reference: str
    digest: str
    size_bytes: int
    auth: _image_pb2.RegistryAuth
    def __init__(self, reference: _Optional[str] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ...) -> None: ...

class GetBlobResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class PutBlobRequest(_message.Message):
    __slots__ = ("open", "piece")
    class Open(_message.Message):
        __slots__ = ("reference", "digest", "size_bytes", "auth")
        REFERENCE_FIELD_NUMBER: _ClassVar[int]
        DIGEST_FIELD_NUMBER: _ClassVar[int]
        SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
        AUTH_FIELD_NUMBER: _ClassVar[int]
        reference: str
        digest: str
        size_bytes: int
        auth: _image_pb2.RegistryAuth
        def __init__(self, reference: _Optional[str] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ...) -> None: ...
    class Piece(_message.Message):
        __slots__ = ("offset", "data")
        OFFSET_FIELD_NUMBER: _ClassVar[int]
        DATA_FIELD_NUMBER: _ClassVar[int]
        offset: int
        data: bytes
        def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
    OPEN_FIELD_NUMBER: _ClassVar[int]
    PIECE_FIELD_NUMBER: _ClassVar[int]
    open: PutBlobRequest.Open
    piece: PutBlobRequest.Piece
    def __init__(self, open: _Optional[_Union[PutBlobRequest.Open, _Mapping]] = ..., piece: _Optional[_Union[PutBlobRequest.Piece, _Mapping]] = ...) -> None: ...

class PutBlobResponse(_message.Message):
    __slots__ = ("digest", "stage", "current_bytes", "total_bytes", "send_from")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CURRENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SEND_FROM_FIELD_NUMBER: _ClassVar[int]
    digest: str
    stage: _image_pb2.PushStage
    current_bytes: int
    total_bytes: int
    send_from: int
    def __init__(self, digest: _Optional[str] = ..., stage: _Optional[_Union[_image_pb2.PushStage, str]] = ..., current_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., send_from: _Optional[int] = ...) -> None: ...

class PutManifestRequest(_message.Message):
    __slots__ = ("reference", "raw", "media_type", "auth")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    reference: str
    raw: bytes
    media_type: str
    auth: _image_pb2.RegistryAuth
    def __init__(self, reference: _Optional[str] = ..., raw: _Optional[bytes] = ..., media_type: _Optional[str] = ..., auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ...) -> None: ...

class CopyManifestRequest(_message.Message):
    __slots__ = ("source", "destination", "referrers", "auth", "source_auth")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    REFERRERS_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    SOURCE_AUTH_FIELD_NUMBER: _ClassVar[int]
    source: str
    destination: str
    referrers: bool
    auth: _image_pb2.RegistryAuth
    source_auth: _image_pb2.RegistryAuth
    def __init__(self, source: _Optional[str] = ..., destination: _Optional[str] = ..., referrers: _Optional[bool] = ..., auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ..., source_auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ...) -> None: ...

class PushIndexRequest(_message.Message):
    __slots__ = ("name", "destination", "auth")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    destination: str
    auth: _image_pb2.RegistryAuth
    def __init__(self, name: _Optional[str] = ..., destination: _Optional[str] = ..., auth: _Optional[_Union[_image_pb2.RegistryAuth, _Mapping]] = ...) -> None: ...
