import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_WAITING: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_DONE: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_WAITING: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_DONE: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELLED: JobState

class GetVersionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetVersionResponse(_message.Message):
    __slots__ = ("version", "api_version", "python_version", "kernel_version", "os", "architecture")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    KERNEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    OS_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    version: str
    api_version: str
    python_version: str
    kernel_version: str
    os: str
    architecture: str
    def __init__(self, version: _Optional[str] = ..., api_version: _Optional[str] = ..., python_version: _Optional[str] = ..., kernel_version: _Optional[str] = ..., os: _Optional[str] = ..., architecture: _Optional[str] = ...) -> None: ...

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("version", "root_dir", "state_dir", "instance", "graph_driver", "exec_driver", "cgroup_version", "cgroup_parent", "kernel_version", "cpus", "memory_bytes", "images", "containers", "containers_running", "warnings", "listen", "pid", "started_at", "graph_driver_status", "runtimes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROOT_DIR_FIELD_NUMBER: _ClassVar[int]
    STATE_DIR_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    GRAPH_DRIVER_FIELD_NUMBER: _ClassVar[int]
    EXEC_DRIVER_FIELD_NUMBER: _ClassVar[int]
    CGROUP_VERSION_FIELD_NUMBER: _ClassVar[int]
    CGROUP_PARENT_FIELD_NUMBER: _ClassVar[int]
    KERNEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    LISTEN_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    GRAPH_DRIVER_STATUS_FIELD_NUMBER: _ClassVar[int]
    RUNTIMES_FIELD_NUMBER: _ClassVar[int]
    version: str
    root_dir: str
    state_dir: str
    instance: str
    graph_driver: str
    exec_driver: str
    cgroup_version: int
    cgroup_parent: str
    kernel_version: str
    cpus: int
    memory_bytes: int
    images: int
    containers: int
    containers_running: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    listen: _containers.RepeatedScalarFieldContainer[str]
    pid: int
    started_at: _timestamp_pb2.Timestamp
    graph_driver_status: GraphDriverStatus
    runtimes: _containers.RepeatedCompositeFieldContainer[Runtime]
    def __init__(self, version: _Optional[str] = ..., root_dir: _Optional[str] = ..., state_dir: _Optional[str] = ..., instance: _Optional[str] = ..., graph_driver: _Optional[str] = ..., exec_driver: _Optional[str] = ..., cgroup_version: _Optional[int] = ..., cgroup_parent: _Optional[str] = ..., kernel_version: _Optional[str] = ..., cpus: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., images: _Optional[int] = ..., containers: _Optional[int] = ..., containers_running: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., listen: _Optional[_Iterable[str]] = ..., pid: _Optional[int] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., graph_driver_status: _Optional[_Union[GraphDriverStatus, _Mapping]] = ..., runtimes: _Optional[_Iterable[_Union[Runtime, _Mapping]]] = ...) -> None: ...

class Runtime(_message.Message):
    __slots__ = ("name", "path", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    version: str
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class GraphDriverStatus(_message.Message):
    __slots__ = ("backing_file_system", "options", "quota", "quota_obstacle")
    BACKING_FILE_SYSTEM_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    QUOTA_OBSTACLE_FIELD_NUMBER: _ClassVar[int]
    backing_file_system: str
    options: _containers.RepeatedScalarFieldContainer[str]
    quota: str
    quota_obstacle: str
    def __init__(self, backing_file_system: _Optional[str] = ..., options: _Optional[_Iterable[str]] = ..., quota: _Optional[str] = ..., quota_obstacle: _Optional[str] = ...) -> None: ...

class StreamEventsRequest(_message.Message):
    __slots__ = ("after_sequence", "since", "until", "kinds", "actions", "object")
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    after_sequence: int
    since: _timestamp_pb2.Timestamp
    until: _timestamp_pb2.Timestamp
    kinds: _containers.RepeatedScalarFieldContainer[str]
    actions: _containers.RepeatedScalarFieldContainer[str]
    object: str
    def __init__(self, after_sequence: _Optional[int] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kinds: _Optional[_Iterable[str]] = ..., actions: _Optional[_Iterable[str]] = ..., object: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("sequence", "time", "kind", "action", "id", "name", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: _timestamp_pb2.Timestamp
    kind: str
    action: str
    id: str
    name: str
    attributes: _containers.ScalarMap[str, str]
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[str] = ..., action: _Optional[str] = ..., id: _Optional[str] = ..., name: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ...) -> None: ...

class JobStage(_message.Message):
    __slots__ = ("name", "duration_nanos")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DURATION_NANOS_FIELD_NUMBER: _ClassVar[int]
    name: str
    duration_nanos: int
    def __init__(self, name: _Optional[str] = ..., duration_nanos: _Optional[int] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("id", "verb", "object", "caller", "state", "created_at", "duration_nanos", "stages", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERB_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    DURATION_NANOS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    verb: str
    object: str
    caller: str
    state: JobState
    created_at: _timestamp_pb2.Timestamp
    duration_nanos: int
    stages: _containers.RepeatedCompositeFieldContainer[JobStage]
    error: str
    def __init__(self, id: _Optional[int] = ..., verb: _Optional[str] = ..., object: _Optional[str] = ..., caller: _Optional[str] = ..., state: _Optional[_Union[JobState, str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., duration_nanos: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[JobStage, _Mapping]]] = ..., error: _Optional[str] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("all",)
    ALL_FIELD_NUMBER: _ClassVar[int]
    all: bool
    def __init__(self, all: _Optional[bool] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    def __init__(self, jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class CancelJobResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetDiskUsageRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetDiskUsageResponse(_message.Message):
    __slots__ = ("layers", "containers", "blobs", "other_bytes", "total_bytes", "images", "images_in_use", "images_reclaimable_bytes")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    OTHER_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_IN_USE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_RECLAIMABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    layers: DiskUsagePart
    containers: DiskUsagePart
    blobs: DiskUsagePart
    other_bytes: int
    total_bytes: int
    images: int
    images_in_use: int
    images_reclaimable_bytes: int
    def __init__(self, layers: _Optional[_Union[DiskUsagePart, _Mapping]] = ..., containers: _Optional[_Union[DiskUsagePart, _Mapping]] = ..., blobs: _Optional[_Union[DiskUsagePart, _Mapping]] = ..., other_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ..., images: _Optional[int] = ..., images_in_use: _Optional[int] = ..., images_reclaimable_bytes: _Optional[int] = ...) -> None: ...

class DiskUsagePart(_message.Message):
    __slots__ = ("count", "in_use", "bytes", "reclaimable_bytes")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    RECLAIMABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    count: int
    in_use: int
    bytes: int
    reclaimable_bytes: int
    def __init__(self, count: _Optional[int] = ..., in_use: _Optional[int] = ..., bytes: _Optional[int] = ..., reclaimable_bytes: _Optional[int] = ...) -> None: ...

class StreamGraphRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StreamGraphResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class CheckStoreRequest(_message.Message):
    __slots__ = ("repair", "files")
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    repair: bool
    files: bool
    def __init__(self, repair: _Optional[bool] = ..., files: _Optional[bool] = ...) -> None: ...

class CheckStoreResponse(_message.Message):
    __slots__ = ("current_bytes", "finding", "summary")
    class Finding(_message.Message):
        __slots__ = ("problem", "id", "detail", "images", "outcome", "repaired")
        PROBLEM_FIELD_NUMBER: _ClassVar[int]
        ID_FIELD_NUMBER: _ClassVar[int]
        DETAIL_FIELD_NUMBER: _ClassVar[int]
        IMAGES_FIELD_NUMBER: _ClassVar[int]
        OUTCOME_FIELD_NUMBER: _ClassVar[int]
        REPAIRED_FIELD_NUMBER: _ClassVar[int]
        problem: str
        id: str
        detail: str
        images: _containers.RepeatedScalarFieldContainer[str]
        outcome: str
        repaired: bool
        def __init__(self, problem: _Optional[str] = ..., id: _Optional[str] = ..., detail: _Optional[str] = ..., images: _Optional[_Iterable[str]] = ..., outcome: _Optional[str] = ..., repaired: _Optional[bool] = ...) -> None: ...
    class Summary(_message.Message):
        __slots__ = ("blobs", "layers", "images", "bytes", "problems", "problems_left", "layers_compared")
        BLOBS_FIELD_NUMBER: _ClassVar[int]
        LAYERS_FIELD_NUMBER: _ClassVar[int]
        IMAGES_FIELD_NUMBER: _ClassVar[int]
        BYTES_FIELD_NUMBER: _ClassVar[int]
        PROBLEMS_FIELD_NUMBER: _ClassVar[int]
        PROBLEMS_LEFT_FIELD_NUMBER: _ClassVar[int]
        LAYERS_COMPARED_FIELD_NUMBER: _ClassVar[int]
        blobs: int
        layers: int
        images: int
        bytes: int
        problems: int
        problems_left: int
        layers_compared: int
        def __init__(self, blobs: _Optional[int] = ..., layers: _Optional[int] = ..., images: _Optional[int] = ..., bytes: _Optional[int] = ..., problems: _Optional[int] = ..., problems_left: _Optional[int] = ..., layers_compared: _Optional[int] = ...) -> None: ...
    CURRENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    FINDING_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    current_bytes: int
    finding: CheckStoreResponse.Finding
    summary: CheckStoreResponse.Summary
    def __init__(self, current_bytes: _Optional[int] = ..., finding: _Optional[_Union[CheckStoreResponse.Finding, _Mapping]] = ..., summary: _Optional[_Union[CheckStoreResponse.Summary, _Mapping]] = ...) -> None: ...
