"""ADD of a URL: fetched into the content store, and then a file like any other."""

from __future__ import annotations

import hashlib
import posixpath
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

import urllib3

from moorage.server.builder.context import ContextEntry
from moorage.server.cancel import CancelToken
from moorage.server.errors import DataLoss, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from moorage.server.graph.content import ContentStore

MAX_BYTES = 16 << 30
CHUNK = 1 << 18
MODE = 0o600


def fetch(
    url: str, checksum: str, content: ContentStore, http: urllib3.PoolManager, cancel: CancelToken
) -> ContextEntry:
    """Fetch a URL; answers a file by the last name of its path. `checksum` is empty, or `sha256:…`, `sha384:…` or `sha512:…`.

    Raises Unavailable, NotFound, ResourceExhausted, InvalidArgument (no name), DataLoss (not the checksum).
    """
    name = unquote(posixpath.basename(urlsplit(url).path))
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise InvalidArgument(f"ADD {url}: the URL ends with no file name", field="dockerfile")
    try:
        response = http.request("GET", url, preload_content=False, redirect=True)
    except urllib3.exceptions.HTTPError as error:
        raise Unavailable(f"ADD {url}: {error}", url=url) from None
    wanted = hashlib.new(checksum.partition(":")[0] or "sha256")
    with cancel.on_cancel(response.close), response, content.draft() as draft:
        if response.status != 200:
            missing = response.status in (404, 410)
            raise (NotFound if missing else Unavailable)(f"ADD {url}: the server answered {response.status}", url=url)
        try:
            while data := response.read(CHUNK):
                draft.write(data)
                wanted.update(data)
                if draft.size > MAX_BYTES:
                    raise ResourceExhausted(f"ADD {url}: larger than {MAX_BYTES} bytes", url=url)
        except urllib3.exceptions.HTTPError as error:
            cancel.check()
            raise Unavailable(f"ADD {url}: {error}", url=url) from None
        found = f"{wanted.name}:{wanted.hexdigest()}"
        if checksum and found != checksum:
            raise DataLoss(f"ADD {url}: its digest is {found}, not {checksum}", url=url)
        digest = draft.commit()
        return ContextEntry(
            name, "file", MODE, draft.size, _modified(response.headers.get("Last-Modified", "")), digest
        )


def _modified(text: str) -> int:
    try:
        return int(parsedate_to_datetime(text).timestamp()) * 10**9
    except (ValueError, TypeError, OverflowError):
        return 0
