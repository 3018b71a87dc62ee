"""One repository at one endpoint: requests with credentials, redirects and retries.

A redirect to another origin goes without credentials, there and from there on, and a redirect from https to http is refused.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Mapping
from urllib.parse import urljoin, urlsplit

from moorage.server.cancel import CancelToken
from moorage.server.errors import Internal, Unauthenticated, Unavailable
from moorage.server.registry.auth import Authorizer, parse_challenges
from moorage.server.registry.problems import Subject, TryAgain, from_status, shown
from moorage.server.registry.transport import Answer, Body, Transport

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_MAX_ERROR_BODY = 4096
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 10.0
_MAX_RETRY_AFTER = 60.0
_AGENT = "moorage"


class Attempts:
    """Bounded patience: exponential back-off with jitter, or what the registry asks for while that is not too long."""

    def __init__(self, retries: int, cancel: CancelToken, jitter: Callable[[], float] = random.random) -> None:
        self._retries, self._cancel, self._jitter = retries, cancel, jitter
        self._failed = 0

    def progressed(self) -> None:
        """Forget the failures so far: something substantial came through."""
        self._failed = 0

    def again(self, trouble: TryAgain) -> None:
        """Sleep before the next attempt; raise the error when there is to be none, or the cancel token's."""
        self._cancel.check()
        if self._failed >= self._retries:
            raise trouble.error
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self._failed) * (0.5 + self._jitter() / 2)
        if trouble.after is not None:
            if trouble.after > _MAX_RETRY_AFTER:
                trouble.error.hint = f"the registry asks to wait {trouble.after:.0f} s; {trouble.error.hint}"
                raise trouble.error
            pause = max(pause, trouble.after)
        self._failed += 1
        self._cancel.wait(pause)


class Remote:
    """A repository at `base` (`https://host:port`). `host` is the name that credentials and messages go by. Thread-safe."""

    def __init__(
        self, transport: Transport, authorizer: Authorizer, base: str, host: str, repository: str, retries: int
    ) -> None:
        self._transport, self._authorizer, self._base = transport, authorizer, base
        self.host, self.repository, self.retries = host, repository, retries

    def subject(self, action: str, towards: str = "from") -> Subject:
        return Subject(self.host, self.repository, action, towards)

    @property
    def origin(self) -> str:
        """`https://host:port`."""
        return self._base

    @property
    def presented(self) -> bool:
        """Whether credentials were asked for and shown."""
        return self._authorizer.presented

    def get(self, path: str, headers: Mapping[str, str], subject: Subject, cancel: CancelToken) -> Answer:
        """GET `/v2/<repository>/<path>` with retries; answer a response with status 200 or 206."""
        attempts = Attempts(self.retries, cancel)
        while True:
            try:
                return self.get_once(path, headers, subject, cancel)
            except TryAgain as trouble:
                attempts.again(trouble)

    def get_once(self, path: str, headers: Mapping[str, str], subject: Subject, cancel: CancelToken) -> Answer:
        """As `get`, in one attempt; what may pass is raised as TryAgain."""
        return self.send_once("GET", path, headers, subject, cancel, expect=(200, 206))

    def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        subject: Subject,
        cancel: CancelToken,
        *,
        expect: Container[int],
        body: bytes | None = None,
    ) -> Answer:
        """A request with a small body or none, with retries; answer a response with one of the statuses `expect`."""
        attempts = Attempts(self.retries, cancel)
        while True:
            try:
                return self.send_once(method, path, headers, subject, cancel, expect=expect, body=body)
            except TryAgain as trouble:
                attempts.again(trouble)

    def send_once(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        subject: Subject,
        cancel: CancelToken,
        *,
        expect: Container[int],
        body: bytes | Body | None = None,
    ) -> Answer:
        """One attempt. `path` is below `/v2/<repository>/`, or from the root when it begins with `/`, or a URL that the registry gave.

        What may pass is raised as TryAgain; so is a 401 to a body that was read from, once there are credentials to send it again with.
        """
        url = self._url(path)
        # No other host than the registry gets to see, or to ask for, its credentials.
        authorization = self._authorizer.header() if _origin(url) == _origin(self._base) else ""
        answer = self._follow(method, url, headers, authorization, subject, cancel, body)
        if answer.status == 401:
            challenges = parse_challenges(answer.headers.getlist("WWW-Authenticate"))
            refusal = _refusal(answer)
            if not self._authorizer.answer(challenges, authorization, cancel):
                raise from_status(subject, 401, answer.headers, refusal, self._authorizer.hint())
            if not (body is None or isinstance(body, bytes)):
                raise TryAgain(Unauthenticated(f"{subject}: its token has expired", **subject.metadata()))
            answer = self._follow(method, url, headers, self._authorizer.header(), subject, cancel, body)
        if answer.status not in expect:
            raise from_status(subject, answer.status, answer.headers, _refusal(answer), self._authorizer.hint())
        return answer

    def located(self, answer: Answer, subject: Subject) -> str:
        """The URL of a Location header, which is relative to the registry. Raises Internal for one that is not to be used."""
        return _redirected(f"{self._base}/", answer.headers.get("Location", ""), subject)

    def _url(self, path: str) -> str:
        if path.startswith(("http://", "https://")):
            return path
        return f"{self._base}{path}" if path.startswith("/") else f"{self._base}/v2/{self.repository}/{path}"

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        authorization: str,
        subject: Subject,
        cancel: CancelToken,
        body: bytes | Body | None,
    ) -> Answer:
        for _ in range(_MAX_REDIRECTS + 1):
            sent = {"User-Agent": _AGENT, **headers, **({"Authorization": authorization} if authorization else {})}
            answer = self._transport.send(method, url, sent, subject, cancel, body)
            if answer.status not in _REDIRECTS or method not in ("GET", "HEAD"):
                return _without_challenge(answer, url, self._base, subject)
            _refusal(answer)
            target = _redirected(url, answer.headers.get("Location", ""), subject)
            if _origin(target) != _origin(url):
                authorization = ""
            url = target
        raise Internal(
            f"{subject}: more than {_MAX_REDIRECTS} redirects", reason="REGISTRY_PROTOCOL", **subject.metadata()
        )


def _without_challenge(answer: Answer, url: str, base: str, subject: Subject) -> Answer:
    """A 401 counts only when it comes from the registry itself: no other host gets to ask for its credentials."""
    if answer.status == 401 and _origin(url) != _origin(base):
        _refusal(answer)
        message = f"{subject}: it redirects to {urlsplit(url).hostname}, which answers 401"
        raise Unavailable(message, reason="REGISTRY_ERROR", **subject.metadata())
    return answer


def _redirected(url: str, location: str, subject: Subject) -> str:
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        usable = bool(location and parts.hostname) and parts.scheme in ("http", "https") and "@" not in parts.netloc
    except ValueError:
        usable = False
    if not usable:
        raise _bad_redirect(subject, f"it redirects to {shown(location)}")
    if url.startswith("https:") and parts.scheme != "https":
        raise _bad_redirect(subject, f"it redirects from https to http, to {parts.hostname}")
    return target


def _bad_redirect(subject: Subject, why: str) -> Internal:
    return Internal(f"{subject}: {why}, which is refused", reason="REGISTRY_PROTOCOL", **subject.metadata())


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _refusal(answer: Answer) -> bytes:
    """The beginning of the body of an answer that is not wanted, closed."""
    with answer:
        return answer.body(_MAX_ERROR_BODY)
