import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PullPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PULL_POLICY_UNSPECIFIED: _ClassVar[PullPolicy]
    PULL_POLICY_ALWAYS: _ClassVar[PullPolicy]
    PULL_POLICY_MISSING: _ClassVar[PullPolicy]
    PULL_POLICY_NEVER: _ClassVar[PullPolicy]

class PullStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PULL_STAGE_UNSPECIFIED: _ClassVar[PullStage]
    PULL_STAGE_RESOLVING: _ClassVar[PullStage]
    PULL_STAGE_WAITING: _ClassVar[PullStage]
    PULL_STAGE_DOWNLOADING: _ClassVar[PullStage]
    PULL_STAGE_VERIFYING: _ClassVar[PullStage]
    PULL_STAGE_UNPACKING: _ClassVar[PullStage]
    PULL_STAGE_DONE: _ClassVar[PullStage]
    PULL_STAGE_EXISTS: _ClassVar[PullStage]

class PushStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PUSH_STAGE_UNSPECIFIED: _ClassVar[PushStage]
    PUSH_STAGE_PREPARING: _ClassVar[PushStage]
    PUSH_STAGE_WAITING: _ClassVar[PushStage]
    PUSH_STAGE_FETCHING: _ClassVar[PushStage]
    PUSH_STAGE_PACKING: _ClassVar[PushStage]
    PUSH_STAGE_UPLOADING: _ClassVar[PushStage]
    PUSH_STAGE_DONE: _ClassVar[PushStage]
    PUSH_STAGE_EXISTS: _ClassVar[PushStage]
    PUSH_STAGE_MOUNTED: _ClassVar[PushStage]

class ArchiveFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ARCHIVE_FORMAT_UNSPECIFIED: _ClassVar[ArchiveFormat]
    ARCHIVE_FORMAT_OCI: _ClassVar[ArchiveFormat]
    ARCHIVE_FORMAT_DOCKER: _ClassVar[ArchiveFormat]

class LoadStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOAD_STAGE_UNSPECIFIED: _ClassVar[LoadStage]
    LOAD_STAGE_RECEIVING: _ClassVar[LoadStage]
    LOAD_STAGE_UNPACKING: _ClassVar[LoadStage]
    LOAD_STAGE_DONE: _ClassVar[LoadStage]
PULL_POLICY_UNSPECIFIED: PullPolicy
PULL_POLICY_ALWAYS: PullPolicy
PULL_POLICY_MISSING: PullPolicy
PULL_POLICY_NEVER: PullPolicy
PULL_STAGE_UNSPECIFIED: PullStage
PULL_STAGE_RESOLVING: PullStage
PULL_STAGE_WAITING: PullStage
PULL_STAGE_DOWNLOADING: PullStage
PULL_STAGE_VERIFYING: PullStage
PULL_STAGE_UNPACKING: PullStage
PULL_STAGE_DONE: PullStage
PULL_STAGE_EXISTS: PullStage
PUSH_STAGE_UNSPECIFIED: PushStage
PUSH_STAGE_PREPARING: PushStage
PUSH_STAGE_WAITING: PushStage
PUSH_STAGE_FETCHING: PushStage
PUSH_STAGE_PACKING: PushStage
PUSH_STAGE_UPLOADING: PushStage
PUSH_STAGE_DONE: PushStage
PUSH_STAGE_EXISTS: PushStage
PUSH_STAGE_MOUNTED: PushStage
ARCHIVE_FORMAT_UNSPECIFIED: ArchiveFormat
ARCHIVE_FORMAT_OCI: ArchiveFormat
ARCHIVE_FORMAT_DOCKER: ArchiveFormat
LOAD_STAGE_UNSPECIFIED: LoadStage
LOAD_STAGE_RECEIVING: LoadStage
LOAD_STAGE_UNPACKING: LoadStage
LOAD_STAGE_DONE: LoadStage

class Platform(_message.Message):
    __slots__ = ("os", "architecture", "variant")
    OS_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    os: str
    architecture: str
    variant: str
    def __init__(self, os: _Optional[str] = ..., architecture: _Optional[str] = ..., variant: _Optional[str] = ...) -> None: ...

class RegistryAuth(_message.Message):
    __slots__ = ("username", "password", "identity_token", "registry_token", "registry")
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_FIELD_NUMBER: _ClassVar[int]
    username: str
    password: str
    identity_token: str
    registry_token: str
    registry: str
    def __init__(self, username: _Optional[str] = ..., password: _Optional[str] = ..., identity_token: _Optional[str] = ..., registry_token: _Optional[str] = ..., registry: _Optional[str] = ...) -> None: ...

class PullImageRequest(_message.Message):
    __slots__ = ("reference", "platform", "auth", "policy")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    reference: str
    platform: Platform
    auth: RegistryAuth
    policy: PullPolicy
    def __init__(self, reference: _Optional[str] = ..., platform: _Optional[_Union[Platform, _Mapping]] = ..., auth: _Optional[_Union[RegistryAuth, _Mapping]] = ..., policy: _Optional[_Union[PullPolicy, str]] = ...) -> None: ...

class PullImageResponse(_message.Message):
    __slots__ = ("digest", "stage", "current_bytes", "total_bytes", "image")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CURRENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    stage: PullStage
    current_bytes: int
    total_bytes: int
    image: Image
    def __init__(self, digest: _Optional[str] = ..., stage: _Optional[_Union[PullStage, str]] = ..., current_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., image: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...

class PushImageRequest(_message.Message):
    __slots__ = ("reference", "destination", "auth", "all_platforms")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    ALL_PLATFORMS_FIELD_NUMBER: _ClassVar[int]
    reference: str
    destination: str
    auth: RegistryAuth
    all_platforms: bool
    def __init__(self, reference: _Optional[str] = ..., destination: _Optional[str] = ..., auth: _Optional[_Union[RegistryAuth, _Mapping]] = ..., all_platforms: _Optional[bool] = ...) -> None: ...

class PushImageResponse(_message.Message):
    __slots__ = ("digest", "stage", "current_bytes", "total_bytes", "pushed")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CURRENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    PUSHED_FIELD_NUMBER: _ClassVar[int]
    digest: str
    stage: PushStage
    current_bytes: int
    total_bytes: int
    pushed: Pushed
    def __init__(self, digest: _Optional[str] = ..., stage: _Optional[_Union[PushStage, str]] = ..., current_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., pushed: _Optional[_Union[Pushed, _Mapping]] = ...) -> None: ...

class Pushed(_message.Message):
    __slots__ = ("reference", "digest", "size_bytes", "media_type", "rewritten")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    REWRITTEN_FIELD_NUMBER: _ClassVar[int]
    reference: str
    digest: str
    size_bytes: int
    media_type: str
    rewritten: bool
    def __init__(self, reference: _Optional[str] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., media_type: _Optional[str] = ..., rewritten: _Optional[bool] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("id", "tags", "digests", "created_at", "size_bytes", "platform", "labels", "config", "layers", "used_by")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    USED_BY_FIELD_NUMBER: _ClassVar[int]
    id: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    digests: _containers.RepeatedScalarFieldContainer[str]
    created_at: _timestamp_pb2.Timestamp
    size_bytes: int
    platform: Platform
    labels: _containers.ScalarMap[str, str]
    config: ImageConfig
    layers: _containers.RepeatedCompositeFieldContainer[ImageLayer]
    used_by: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., digests: _Optional[_Iterable[str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., size_bytes: _Optional[int] = ..., platform: _Optional[_Union[Platform, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., config: _Optional[_Union[ImageConfig, _Mapping]] = ..., layers: _Optional[_Iterable[_Union[ImageLayer, _Mapping]]] = ..., used_by: _Optional[_Iterable[str]] = ...) -> None: ...

class ImageConfig(_message.Message):
    __slots__ = ("user", "env", "entrypoint", "command", "working_dir", "exposed_ports", "volumes", "stop_signal")
    USER_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    ENTRYPOINT_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIR_FIELD_NUMBER: _ClassVar[int]
    EXPOSED_PORTS_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    STOP_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    user: str
    env: _containers.RepeatedScalarFieldContainer[str]
    entrypoint: _containers.RepeatedScalarFieldContainer[str]
    command: _containers.RepeatedScalarFieldContainer[str]
    working_dir: str
    exposed_ports: _containers.RepeatedScalarFieldContainer[str]
    volumes: _containers.RepeatedScalarFieldContainer[str]
    stop_signal: str
    def __init__(self, user: _Optional[str] = ..., env: _Optional[_Iterable[str]] = ..., entrypoint: _Optional[_Iterable[str]] = ..., command: _Optional[_Iterable[str]] = ..., working_dir: _Optional[str] = ..., exposed_ports: _Optional[_Iterable[str]] = ..., volumes: _Optional[_Iterable[str]] = ..., stop_signal: _Optional[str] = ...) -> None: ...

class ImageLayer(_message.Message):
    __slots__ = ("diff_id", "chain_id", "size_bytes")
    DIFF_ID_FIELD_NUMBER: _ClassVar[int]
    CHAIN_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    diff_id: str
    chain_id: str
    size_bytes: int
    def __init__(self, diff_id: _Optional[str] = ..., chain_id: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class ListImagesRequest(_message.Message):
    __slots__ = ("reference", "page_size", "page_token", "dangling", "labels", "before", "since", "patterns")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DANGLING_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    reference: str
    page_size: int
    page_token: str
    dangling: bool
    labels: _containers.ScalarMap[str, str]
    before: str
    since: str
    patterns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, reference: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., dangling: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ..., before: _Optional[str] = ..., since: _Optional[str] = ..., patterns: _Optional[_Iterable[str]] = ...) -> None: ...

class ListImagesResponse(_message.Message):
    __slots__ = ("images", "next_page_token")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[Image]
    next_page_token: str
    def __init__(self, images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetImageRequest(_message.Message):
    __slots__ = ("reference",)
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class RemoveImageRequest(_message.Message):
    __slots__ = ("reference", "force")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    force: bool
    def __init__(self, reference: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class RemoveImageResponse(_message.Message):
    __slots__ = ("untagged", "deleted", "reclaimed_bytes")
    UNTAGGED_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    RECLAIMED_BYTES_FIELD_NUMBER: _ClassVar[int]
    untagged: _containers.RepeatedScalarFieldContainer[str]
    deleted: _containers.RepeatedScalarFieldContainer[str]
    reclaimed_bytes: int
    def __init__(self, untagged: _Optional[_Iterable[str]] = ..., deleted: _Optional[_Iterable[str]] = ..., reclaimed_bytes: _Optional[int] = ...) -> None: ...

class TagImageRequest(_message.Message):
    __slots__ = ("source", "target")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: str
    def __init__(self, source: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class GetImageHistoryRequest(_message.Message):
    __slots__ = ("reference",)
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class GetImageHistoryResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[ImageHistoryEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[ImageHistoryEntry, _Mapping]]] = ...) -> None: ...

class ImageHistoryEntry(_message.Message):
    __slots__ = ("created_at", "created_by", "author", "comment", "diff_id", "size_bytes")
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    DIFF_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    created_at: _timestamp_pb2.Timestamp
    created_by: str
    author: str
    comment: str
    diff_id: str
    size_bytes: int
    def __init__(self, created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., created_by: _Optional[str] = ..., author: _Optional[str] = ..., comment: _Optional[str] = ..., diff_id: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class PruneImagesRequest(_message.Message):
    __slots__ = ("all", "labels", "until")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ALL_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    all: bool
    labels: _containers.ScalarMap[str, str]
    until: _timestamp_pb2.Timestamp
    def __init__(self, all: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PruneImagesResponse(_message.Message):
    __slots__ = ("untagged", "deleted", "reclaimed_bytes")
    UNTAGGED_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    RECLAIMED_BYTES_FIELD_NUMBER: _ClassVar[int]
    untagged: _containers.RepeatedScalarFieldContainer[str]
    deleted: _containers.RepeatedScalarFieldContainer[str]
    reclaimed_bytes: int
    def __init__(self, untagged: _Optional[_Iterable[str]] = ..., deleted: _Optional[_Iterable[str]] = ..., reclaimed_bytes: _Optional[int] = ...) -> None: ...

class SaveImagesRequest(_message.Message):
    __slots__ = ("references", "format", "all_platforms")
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    ALL_PLATFORMS_FIELD_NUMBER: _ClassVar[int]
    references: _containers.RepeatedScalarFieldContainer[str]
    format: ArchiveFormat
    all_platforms: bool
    def __init__(self, references: _Optional[_Iterable[str]] = ..., format: _Optional[_Union[ArchiveFormat, str]] = ..., all_platforms: _Optional[bool] = ...) -> None: ...

class SaveImagesResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class LoadImagesRequest(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class LoadImagesResponse(_message.Message):
    __slots__ = ("stage", "digest", "current_bytes", "image", "names")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CURRENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    stage: LoadStage
    digest: str
    current_bytes: int
    image: Image
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, stage: _Optional[_Union[LoadStage, str]] = ..., digest: _Optional[str] = ..., current_bytes: _Optional[int] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class ImportImageRequest(_message.Message):
    __slots__ = ("open", "data")
    class Open(_message.Message):
        __slots__ = ("reference", "message", "changes", "platform")
        REFERENCE_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        CHANGES_FIELD_NUMBER: _ClassVar[int]
        PLATFORM_FIELD_NUMBER: _ClassVar[int]
        reference: str
        message: str
        changes: _containers.RepeatedScalarFieldContainer[str]
        platform: Platform
        def __init__(self, reference: _Optional[str] = ..., message: _Optional[str] = ..., changes: _Optional[_Iterable[str]] = ..., platform: _Optional[_Union[Platform, _Mapping]] = ...) -> None: ...
    OPEN_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    open: ImportImageRequest.Open
    data: bytes
    def __init__(self, open: _Optional[_Union[ImportImageRequest.Open, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ImportImageResponse(_message.Message):
    __slots__ = ("stage", "current_bytes", "image")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CURRENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    stage: LoadStage
    current_bytes: int
    image: Image
    def __init__(self, stage: _Optional[_Union[LoadStage, str]] = ..., current_bytes: _Optional[int] = ..., image: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...
