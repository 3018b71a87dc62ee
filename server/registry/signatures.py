"""The signature policy: which images may come in at all. Enforced once a name is resolved, before anything of the image is fetched or, for
one out of an archive, unpacked.

Signatures are cosign's, made with a key: a manifest under the tag `sha256-<hex>.sig` of the image's repository, or one that refers to the
image (its artifact type says so), whose layers are the signed payloads ("simple signing"). Kinds of keys: ECDSA, RSA, Ed25519, in PEM.
A signature of the index is one of each of its images.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from moorage.server.cancel import CancelToken
from moorage.server.errors import MoorageError, NotFound, PermissionDenied, Unavailable
from moorage.server.registry import manifest
from moorage.server.registry import reference as references
from moorage.server.registry.client import Client, Repository
from moorage.server.registry.config import SignatureRule
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.discover import Discovery
from moorage.server.registry.manifest import Descriptor
from moorage.server.registry.problems import shown
from moorage.server.registry.reference import Reference, is_digest

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
ARTIFACT_TYPE = "application/vnd.dev.cosign.artifact.sig.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
_CLAIM = "cosign container image signature"
_MAX_PAYLOAD = 1 << 20
_MAX_SIGNATURES = 100

Verifier = Callable[[bytes, bytes], bool]
"""Whether a signature of a payload is good by one key; see keys.py."""


class _Layer(msgspec.Struct):
    digest: str
    size: int
    media_type: str = msgspec.field(name="mediaType", default="")
    annotations: dict[str, str] | None = None


class _Manifest(msgspec.Struct):
    layers: list[_Layer] = []


class _Identity(msgspec.Struct):
    reference: str = msgspec.field(name="docker-reference", default="")


class _Image(msgspec.Struct):
    digest: str = msgspec.field(name="docker-manifest-digest", default="")


class _Critical(msgspec.Struct):
    type: str
    identity: _Identity
    image: _Image


class _Payload(msgspec.Struct):
    critical: _Critical


@dataclass(frozen=True)
class _Rule:
    given: SignatureRule
    keys: tuple[Verifier, ...]


class Signatures:
    """The rules of `[[registry.signatures]]`. Raises FailedPrecondition, at once, for a key that cannot be read."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._rules = [_Rule(rule, _load(rule.keys)) for rule in client.config.signatures]

    def check(
        self,
        reference: Reference,
        digests: Sequence[str],
        repository: Repository,
        auth: RegistryAuth | None,
        cancel: CancelToken,
        *,
        action: str = "pull",
    ) -> None:
        """Raise PermissionDenied when the policy does not let an image in. `digests` are those of its manifest and of the indexes that lead
        to it; a signature of one of them will do. Signatures that cannot be read for want of the registry raise what that is."""
        rule = self._demands(reference, reference.repository, action)
        if rule is None:
            return
        failures: list[str] = []
        for digest in digests:
            for payload, signature in self._found(reference, digest, repository, auth, cancel):
                why = _fault(payload, signature, rule.keys, reference, digest)
                if not why:
                    return
                failures.append(why)
        raise _unsigned(reference, rule, action, failures)

    def check_archived(
        self, names: Sequence[Reference], digests: Sequence[str], action: str, cancel: CancelToken
    ) -> None:
        """Likewise for an image out of an archive, by each of the names it is to have; its signatures are in the names' registries.

        Without a name the policy for all images counts, and without digests there can be no signature."""
        for name in names:
            repository = self._client.repository(name, None, cancel)
            self.check(name, digests, repository, None, cancel, action=action)
        if not names and (rule := self._demands("an image without a name", "", action)) is not None:
            raise _unsigned("an image without a name", rule, action, [])

    def _demands(self, image: object, repository: str, action: str) -> _Rule | None:
        """The rule whose signatures an image needs; None when it needs none. Raises PermissionDenied when it is rejected."""
        rule = self._rule(repository)
        if rule is None or rule.given.policy == "accept":
            return None
        if rule.given.policy == "reject":
            raise _denied(image, action, f"the signature policy for {_scope(rule)} rejects it")
        return rule

    def _rule(self, repository: str) -> _Rule | None:
        """The one with the longest scope that covers a repository."""
        covering = [rule for rule in self._rules if _covers(rule.given.scope, repository)]
        return max(covering, key=lambda rule: len(rule.given.scope), default=None)

    def _found(
        self,
        reference: Reference,
        digest: str,
        repository: Repository,
        auth: RegistryAuth | None,
        cancel: CancelToken,
    ) -> Iterator[tuple[bytes, str]]:
        """Payloads and signatures that are said to be of a manifest."""
        yield from _read(repository, f"{digest.replace(':', '-')}.sig")
        subject = references.parse(f"{reference.repository}@{digest}")
        try:
            _, referrers = Discovery(self._client).referrers(subject, ARTIFACT_TYPE, auth, cancel)
        except Unavailable:
            raise
        except MoorageError:
            cancel.check()
            return
        for referrer in referrers[:_MAX_SIGNATURES]:
            yield from _read(repository, referrer.digest)


def _covers(scope: str, repository: str) -> bool:
    return not scope or repository == scope or repository.startswith(f"{scope}/")


def _load(paths: Sequence[str]) -> tuple[Verifier, ...]:
    if not paths:
        return ()
    # Loaded for those who have a policy only.
    from moorage.server.registry import keys

    return tuple(keys.load(path) for path in paths)


def _read(repository: Repository, target: str) -> Iterator[tuple[bytes, str]]:
    """What a manifest of signatures holds; nothing for one that does not exist or is none."""
    try:
        document = msgspec.json.decode(repository.get_document(target).raw, type=_Manifest)
    except (NotFound, msgspec.MsgspecError, RecursionError):
        return
    for layer in document.layers[:_MAX_SIGNATURES]:
        signature = (layer.annotations or {}).get(ANNOTATION, "")
        usable = layer.media_type == PAYLOAD_TYPE and is_digest(layer.digest) and 0 < layer.size <= _MAX_PAYLOAD
        if not (usable and signature):
            continue
        with repository.open_blob(Descriptor(PAYLOAD_TYPE, layer.digest, layer.size)) as blob:
            payload = b"".join(iter(blob.chunk, b""))
        if manifest.digest_of(payload, layer.digest.partition(":")[0]) == layer.digest:
            yield payload, signature


def _fault(payload: bytes, signature: str, keys: Sequence[Verifier], reference: Reference, digest: str) -> str:
    """Why a signature does not count; empty when it does. Nothing of the payload is believed before it is verified."""
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return "a signature is not base64"
    if not any(verifies(raw, payload) for verifies in keys):
        return "a signature is of no known key"
    try:
        claim = msgspec.json.decode(payload, type=_Payload).critical
        signed = references.parse(claim.identity.reference)
    except (msgspec.MsgspecError, RecursionError, MoorageError):
        return "a signed payload is malformed"
    if claim.type != _CLAIM:
        return f"a signature is a {shown(claim.type, 60)}"
    if claim.image.digest != digest:
        return f"a signature is of {shown(claim.image.digest, 80)}"
    other_tag = signed.tag and not reference.digest and signed.tag != (reference.tag or references.DEFAULT_TAG)
    if signed.repository != reference.repository or other_tag:
        return f"a signature is for {shown(str(signed), 120)[1:-1]}"
    return ""


def _scope(rule: _Rule) -> str:
    return rule.given.scope or "all images"


def _unsigned(image: object, rule: _Rule, action: str, failures: Sequence[str]) -> PermissionDenied:
    count = f"none of its {len(failures)} is good: {'; '.join(failures[:3])}" if failures else "it has none"
    return _denied(image, action, f"the signature policy for {_scope(rule)} requires a signature, and {count}")


def _denied(image: object, action: str, why: str) -> PermissionDenied:
    hint = "have it signed with a key that the policy names, or change [[registry.signatures]]"
    return PermissionDenied(f"cannot {action} {image}: {why}", reason="SIGNATURE", hint=hint, image=str(image))
