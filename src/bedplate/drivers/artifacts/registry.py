"""Container images from a registry, over the OCI distribution API: kept as they are, in OCI archives.

Only for reading, and without a password: where a registry asks for a token, an anonymous one is fetched. May not:
talk to a container runtime.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from bedplate.drivers.artifacts import oci
from bedplate.drivers.artifacts.fetch import Fetcher
from bedplate.drivers.artifacts.proc import ArtifactError, run

DOCKER_INDEX_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_ACCEPT = {"Accept": ", ".join((oci.INDEX_TYPE, DOCKER_INDEX_TYPE, oci.MANIFEST_TYPE, DOCKER_MANIFEST_TYPE))}
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")

T = TypeVar("T")


class Layer(msgspec.Struct, frozen=True):
    """A layer of an image as it was fetched: its media type, and the file, still compressed."""

    media_type: str
    path: Path


class _Platform(msgspec.Struct, frozen=True):
    os: str = ""
    architecture: str = ""


_WANTED = _Platform("linux", "amd64")


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str
    digest: str
    size: int
    platform: _Platform | None = None


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    """An index (`manifests`) or a manifest (`config`, `layers`)."""

    media_type: str = ""
    manifests: list[_Descriptor] = []
    config: _Descriptor | None = None
    layers: list[_Descriptor] = []


class _Token(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


class Image:
    """An image of a registry, for linux/amd64.

    `base` is the registry's address; a path in it, as registries that mirror others have, goes before the
    repository's own. `name` is the image's name with registry and tag; its registry is not asked, `base` is.
    """

    def __init__(self, fetcher: Fetcher, base: str, name: str) -> None:
        self.name = name
        self._fetcher = fetcher
        url = httpx.URL(base)
        repository, _, self._tag = name.partition("/")[2].rpartition(":")
        repository = "/".join(filter(None, (url.path.strip("/"), repository)))
        self._at = str(url.copy_with(path=f"/v2/{repository}"))
        self._auth = _Anonymous(repository)

    def pull(self, archive: Path) -> list[Layer]:
        """Write the image's OCI archive; returns its layers, lowest first. Raises `ArtifactError`."""
        manifest, document = self._manifest()
        if document.config is None:
            raise ArtifactError(
                f"{self._at} did not answer with a manifest of the image {self.name}; is it a registry?"
            )
        config = self._blob(document.config)
        found = self._decode(config.read_bytes(), _Platform)
        if found != _WANTED:
            raise ArtifactError(f"the image {self.name} is for {found.os}/{found.architecture} instead of linux/amd64")
        layers = [Layer(d.media_type, self._blob(d)) for d in document.layers]
        blobs = [oci.Blob(x.media_type, x.path.read_bytes()) for x in layers]
        config_blob = oci.Blob(document.config.media_type, config.read_bytes())
        oci.write_layout(archive, self.name, manifest, [config_blob, *blobs])
        return layers

    def _manifest(self) -> tuple[oci.Blob, _Document]:
        answer = self._fetcher.get(
            f"{self._at}/manifests/{self._tag}", f"image {self.name}", headers=_ACCEPT, auth=self._auth
        )
        data = answer.content
        named = answer.headers.get("Docker-Content-Digest", "")
        found = "sha256:" + hashlib.sha256(data).hexdigest()
        if named.startswith("sha256:") and named != found:
            raise ArtifactError(
                f"the manifest of the image {self.name} has the digest {found} instead of {named}; try again"
            )
        document = self._decode(data, _Document)
        media_type = document.media_type or answer.headers.get("Content-Type", "").partition(";")[0]
        if document.manifests:
            fitting = [d for d in document.manifests if d.platform == _WANTED]
            if not fitting:
                raise ArtifactError(f"the image {self.name} at {self._at} is not there for linux/amd64")
            media_type = fitting[0].media_type
            data = self._blob(fitting[0], "manifests").read_bytes()
            document = self._decode(data, _Document)
        return oci.Blob(media_type, data), document

    def _blob(self, descriptor: _Descriptor, kind: str = "blobs") -> Path:
        return self._fetcher.file(
            f"{self._at}/{kind}/{descriptor.digest}",
            _hex(self.name, descriptor.digest),
            f"{descriptor.digest} of the image {self.name}",
            size=descriptor.size,
            headers=_ACCEPT if kind == "manifests" else None,
            auth=self._auth,
        )

    def _decode(self, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError as error:
            raise ArtifactError(f"{self._at} does not answer as a registry does ({error})") from error


def copy_programs(image: str, layers: Sequence[Layer], names: Collection[str], folder: Path) -> None:
    """Copy executables with these names out of an image's layers into a folder; what is in none is left out."""
    missing = set(names)
    try:
        for layer in reversed(layers):  # an upper layer hides what lower ones hold
            if missing:
                with _opened(layer) as tar:
                    missing -= _copy(tar, missing, folder)
    except tarfile.TarError as error:
        raise ArtifactError(f"a layer of the image {image} cannot be read: {error}") from error


def _copy(tar: tarfile.TarFile, names: Collection[str], folder: Path) -> set[str]:
    found: set[str] = set()
    for member in tar:
        name = member.name.rpartition("/")[2]
        if name in names and (member.isreg() or member.islnk()) and member.mode & 0o111:
            source = tar.extractfile(member)
            if source is not None:
                with source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
                (folder / name).chmod(0o755)
                found.add(name)
    return found


@contextmanager
def _opened(layer: Layer) -> Generator[tarfile.TarFile]:
    if not layer.media_type.endswith("zstd"):
        with tarfile.open(layer.path) as tar:
            yield tar
        return
    with tempfile.TemporaryDirectory(prefix="bedplate-layer-") as work:  # Python reads zstd from 3.14 on
        plain = Path(work) / "layer.tar"
        run(["zstd", "-dqf", layer.path, "-o", plain], what=f"unpacking {layer.path.name}")
        with tarfile.open(plain) as tar:
            yield tar


class _Anonymous(httpx.Auth):
    """Tokens without a password: a 401 names who gives one. In a chain of redirects any host may ask."""

    def __init__(self, repository: str) -> None:
        self._scope = f"repository:{repository}:pull"
        self._tokens: dict[bytes, str] = {}

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
        known = self._tokens.get(request.url.netloc)
        if known is not None:
            request.headers["Authorization"] = f"Bearer {known}"
        response = yield request
        challenge = re.search(r"bearer\s+(.*)", response.headers.get("WWW-Authenticate", ""), re.IGNORECASE)
        if response.status_code != HTTPStatus.UNAUTHORIZED or challenge is None:
            return
        asked: dict[str, str] = dict(re.findall(r'(\w+)="([^"]*)"', challenge[1]))
        realm = httpx.URL(asked.get("realm", ""))
        if not realm.host:
            return
        query = {"scope": asked.get("scope", self._scope)}
        if "service" in asked:
            query["service"] = asked["service"]
        # The extensions are the time limits, which a request made by hand lacks.
        answer = yield httpx.Request("GET", realm.copy_merge_params(query), extensions=request.extensions)
        if not answer.is_success:
            return  # the caller sees and judges this answer
        try:
            given = msgspec.json.decode(answer.read(), type=_Token)
        except msgspec.DecodeError as error:
            raise ArtifactError(f"{realm.host} does not give a token to read container images ({error})") from error
        token = given.token or given.access_token
        again = response.request
        self._tokens[again.url.netloc] = token
        again.headers["Authorization"] = f"Bearer {token}"
        yield again


def _hex(image: str, digest: str) -> str:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise ArtifactError(f"the image {image} names the digest {digest!r}, which is not a SHA-256 one")
    return match[1]
