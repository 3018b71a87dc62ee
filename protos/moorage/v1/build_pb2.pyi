from moorage.v1 import image_pb2 as _image_pb2
from moorage.v1 import runtime_pb2 as _runtime_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BuildContextFileKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUILD_CONTEXT_FILE_KIND_UNSPECIFIED: _ClassVar[BuildContextFileKind]
    BUILD_CONTEXT_FILE_KIND_FILE: _ClassVar[BuildContextFileKind]
    BUILD_CONTEXT_FILE_KIND_DIRECTORY: _ClassVar[BuildContextFileKind]
    BUILD_CONTEXT_FILE_KIND_LINK: _ClassVar[BuildContextFileKind]

class BuildStream(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUILD_STREAM_UNSPECIFIED: _ClassVar[BuildStream]
    BUILD_STREAM_STDOUT: _ClassVar[BuildStream]
    BUILD_STREAM_STDERR: _ClassVar[BuildStream]
    BUILD_STREAM_STATUS: _ClassVar[BuildStream]
BUILD_CONTEXT_FILE_KIND_UNSPECIFIED: BuildContextFileKind
BUILD_CONTEXT_FILE_KIND_FILE: BuildContextFileKind
BUILD_CONTEXT_FILE_KIND_DIRECTORY: BuildContextFileKind
BUILD_CONTEXT_FILE_KIND_LINK: BuildContextFileKind
BUILD_STREAM_UNSPECIFIED: BuildStream
BUILD_STREAM_STDOUT: BuildStream
BUILD_STREAM_STDERR: BuildStream
BUILD_STREAM_STATUS: BuildStream

class BuildRequest(_message.Message):
    __slots__ = ("open", "list", "contents", "agent")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    open: BuildOpen
    list: BuildContextList
    contents: BuildContextContents
    agent: BuildAgentData
    def __init__(self, open: _Optional[_Union[BuildOpen, _Mapping]] = ..., list: _Optional[_Union[BuildContextList, _Mapping]] = ..., contents: _Optional[_Union[BuildContextContents, _Mapping]] = ..., agent: _Optional[_Union[BuildAgentData, _Mapping]] = ...) -> None: ...

class BuildOpen(_message.Message):
    __slots__ = ("dockerfile", "file_name", "tags", "target", "build_args", "labels", "secrets", "network", "no_cache", "pull", "cache_from", "inline_cache", "platform", "ssh", "cache_to", "files", "build_contexts", "context_url", "extra_hosts", "rlimits", "shm_size_bytes", "check")
    class BuildArgsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SecretsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    class BuildContextsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DOCKERFILE_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    BUILD_ARGS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    NO_CACHE_FIELD_NUMBER: _ClassVar[int]
    PULL_FIELD_NUMBER: _ClassVar[int]
    CACHE_FROM_FIELD_NUMBER: _ClassVar[int]
    INLINE_CACHE_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    SSH_FIELD_NUMBER: _ClassVar[int]
    CACHE_TO_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    BUILD_CONTEXTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_URL_FIELD_NUMBER: _ClassVar[int]
    EXTRA_HOSTS_FIELD_NUMBER: _ClassVar[int]
    RLIMITS_FIELD_NUMBER: _ClassVar[int]
    SHM_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    dockerfile: bytes
    file_name: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    target: str
    build_args: _containers.ScalarMap[str, str]
    labels: _containers.ScalarMap[str, str]
    secrets: _containers.ScalarMap[str, bytes]
    network: str
    no_cache: bool
    pull: bool
    cache_from: _containers.RepeatedScalarFieldContainer[str]
    inline_cache: bool
    platform: _image_pb2.Platform
    ssh: _containers.RepeatedScalarFieldContainer[str]
    cache_to: _containers.RepeatedCompositeFieldContainer[BuildCacheExport]
    files: bool
    build_contexts: _containers.ScalarMap[str, str]
    context_url: str
    extra_hosts: _containers.RepeatedScalarFieldContainer[str]
    rlimits: _containers.RepeatedCompositeFieldContainer[_runtime_pb2.Rlimit]
    shm_size_bytes: int
    check: bool
    def __init__(self, dockerfile: _Optional[bytes] = ..., file_name: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., target: _Optional[str] = ..., build_args: _Optional[_Mapping[str, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., secrets: _Optional[_Mapping[str, bytes]] = ..., network: _Optional[str] = ..., no_cache: _Optional[bool] = ..., pull: _Optional[bool] = ..., cache_from: _Optional[_Iterable[str]] = ..., inline_cache: _Optional[bool] = ..., platform: _Optional[_Union[_image_pb2.Platform, _Mapping]] = ..., ssh: _Optional[_Iterable[str]] = ..., cache_to: _Optional[_Iterable[_Union[BuildCacheExport, _Mapping]]] = ..., files: _Optional[bool] = ..., build_contexts: _Optional[_Mapping[str, str]] = ..., context_url: _Optional[str] = ..., extra_hosts: _Optional[_Iterable[str]] = ..., rlimits: _Optional[_Iterable[_Union[_runtime_pb2.Rlimit, _Mapping]]] = ..., shm_size_bytes: _Optional[int] = ..., check: _Optional[bool] = ...) -> None: ...

class BuildCacheExport(_message.Message):
    __slots__ = ("reference", "all_stages")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    ALL_STAGES_FIELD_NUMBER: _ClassVar[int]
    reference: str
    all_stages: bool
    def __init__(self, reference: _Optional[str] = ..., all_stages: _Optional[bool] = ...) -> None: ...

class BuildAgentData(_message.Message):
    __slots__ = ("connection", "id", "data", "end")
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    connection: int
    id: str
    data: bytes
    end: bool
    def __init__(self, connection: _Optional[int] = ..., id: _Optional[str] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ...) -> None: ...

class BuildContextList(_message.Message):
    __slots__ = ("files", "last", "context")
    FILES_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[BuildContextFile]
    last: bool
    context: str
    def __init__(self, files: _Optional[_Iterable[_Union[BuildContextFile, _Mapping]]] = ..., last: _Optional[bool] = ..., context: _Optional[str] = ...) -> None: ...

class BuildContextFile(_message.Message):
    __slots__ = ("path", "kind", "mode", "size_bytes", "modified_nanos", "digest", "target")
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_NANOS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    path: str
    kind: BuildContextFileKind
    mode: int
    size_bytes: int
    modified_nanos: int
    digest: str
    target: str
    def __init__(self, path: _Optional[str] = ..., kind: _Optional[_Union[BuildContextFileKind, str]] = ..., mode: _Optional[int] = ..., size_bytes: _Optional[int] = ..., modified_nanos: _Optional[int] = ..., digest: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class BuildContextContents(_message.Message):
    __slots__ = ("pieces",)
    PIECES_FIELD_NUMBER: _ClassVar[int]
    pieces: _containers.RepeatedCompositeFieldContainer[BuildContextPiece]
    def __init__(self, pieces: _Optional[_Iterable[_Union[BuildContextPiece, _Mapping]]] = ...) -> None: ...

class BuildContextPiece(_message.Message):
    __slots__ = ("digest", "data")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    digest: str
    data: bytes
    def __init__(self, digest: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class BuildResponse(_message.Message):
    __slots__ = ("wanted", "begun", "ended", "output", "warning", "image", "agent", "files")
    WANTED_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    wanted: BuildWanted
    begun: BuildStepBegun
    ended: BuildStepEnded
    output: BuildStepOutput
    warning: str
    image: _image_pb2.Image
    agent: BuildAgentData
    files: bytes
    def __init__(self, wanted: _Optional[_Union[BuildWanted, _Mapping]] = ..., begun: _Optional[_Union[BuildStepBegun, _Mapping]] = ..., ended: _Optional[_Union[BuildStepEnded, _Mapping]] = ..., output: _Optional[_Union[BuildStepOutput, _Mapping]] = ..., warning: _Optional[str] = ..., image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., agent: _Optional[_Union[BuildAgentData, _Mapping]] = ..., files: _Optional[bytes] = ...) -> None: ...

class BuildWanted(_message.Message):
    __slots__ = ("digests", "last")
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    digests: _containers.RepeatedScalarFieldContainer[str]
    last: bool
    def __init__(self, digests: _Optional[_Iterable[str]] = ..., last: _Optional[bool] = ...) -> None: ...

class BuildStepBegun(_message.Message):
    __slots__ = ("step", "name", "stage")
    STEP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    step: int
    name: str
    stage: str
    def __init__(self, step: _Optional[int] = ..., name: _Optional[str] = ..., stage: _Optional[str] = ...) -> None: ...

class BuildStepEnded(_message.Message):
    __slots__ = ("step", "duration_nanos", "cached", "error")
    STEP_FIELD_NUMBER: _ClassVar[int]
    DURATION_NANOS_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    step: int
    duration_nanos: int
    cached: bool
    error: str
    def __init__(self, step: _Optional[int] = ..., duration_nanos: _Optional[int] = ..., cached: _Optional[bool] = ..., error: _Optional[str] = ...) -> None: ...

class BuildStepOutput(_message.Message):
    __slots__ = ("step", "stream", "data")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    step: int
    stream: BuildStream
    data: bytes
    def __init__(self, step: _Optional[int] = ..., stream: _Optional[_Union[BuildStream, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PruneBuildCacheRequest(_message.Message):
    __slots__ = ("unused_seconds", "caches")
    UNUSED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CACHES_FIELD_NUMBER: _ClassVar[int]
    unused_seconds: int
    caches: bool
    def __init__(self, unused_seconds: _Optional[int] = ..., caches: _Optional[bool] = ...) -> None: ...

class PruneBuildCacheResponse(_message.Message):
    __slots__ = ("steps", "reclaimed_bytes")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    RECLAIMED_BYTES_FIELD_NUMBER: _ClassVar[int]
    steps: int
    reclaimed_bytes: int
    def __init__(self, steps: _Optional[int] = ..., reclaimed_bytes: _Optional[int] = ...) -> None: ...
