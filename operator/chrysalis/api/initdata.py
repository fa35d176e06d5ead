"""Initdata: the measured configuration of a worker, the TOML whose SHA-384 is MRCONFIGID.

Form of the Confidential Containers project: `version`, `algorithm = "sha384"` and a `[data]` table of named texts; the
pod's annotation holds base64(gzip(TOML)).  Chrysalis puts in `allow.json` (which containers the guest may start; stands
where Kata's `policy.rego` stands) and `chrysalis.toml` (the measured identity below).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import tomllib
import zlib
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any

import tomli_w
from pydantic import Field, ValidationError

from chrysalis.api.account import Liteserver
from chrysalis.api.base import DnsLabel, Hex32, Model, Sha256Digest
from chrysalis.api.worker import BrokerPin, Isolation, ModelSpec, Prices
from chrysalis.errors import ChrysalisError

MAX_TOML_BYTES = 256 * 1024
REMEMBERED, MAX_REMEMBERED_BYTES = 64, 32 * 1024
"""How many initdata of at most that size stay parsed."""
_LONG_KEY = re.compile(r"""(?<![A-Za-z0-9_-])(?:(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.){0,64}+"|'[^'\n]{0,64}+')[ \t]*+\.[ \t]*+){64}""")
"""A dotted key; of parts that are longer than 64 characters, too few fit into MAX_TOML_BYTES."""


class InitdataReason(StrEnum):
    """Why initdata is refused."""

    INITDATA_MALFORMED = "InitdataMalformed"


class InitdataError(ChrysalisError):
    """The initdata is not of the form that Chrysalis renders."""


class AllowedContainer(Model):
    """A container that the guest may start: exactly this image and these arguments."""

    name: DnsLabel
    image: Annotated[str, Field(max_length=512)]
    args: list[str]


class MeasuredIdentity(Model):
    """What the quote covers about a worker (architecture.md, `measured`); it authorises, unlike the claimed identity."""

    template_version: int
    isolation: Isolation
    image_digest: Sha256Digest
    model: ModelSpec
    policy_name: DnsLabel
    broker: BrokerPin
    set: str = "none"
    wallet: str = ""  # raw form 0:hex64; empty where no account is settled
    fee_bps: int = 0
    reservation_keys: list[Hex32] = []
    liteservers: list[Liteserver] = []
    prices: Prices = Prices()


class Initdata(Model):
    """The whole document, and the bytes that it was read from or renders to."""

    containers: list[AllowedContainer]
    identity: MeasuredIdentity

    def to_toml(self) -> bytes:
        """The exact bytes that are measured: deterministic for equal contents."""
        allow = json.dumps([c.to_json_dict() for c in self.containers], sort_keys=True, separators=(",", ":"))
        document = {
            "version": "0.1.0",
            "algorithm": "sha384",
            "data": {"allow.json": allow, "chrysalis.toml": tomli_w.dumps(self.identity.to_json_dict())},
        }
        return tomli_w.dumps(document).encode()


def parse(toml: bytes) -> Initdata:
    """Read the measured bytes; raises InitdataError for anything that is not exactly this form."""
    if len(toml) > MAX_TOML_BYTES:
        raise _malformed(f"{len(toml)} bytes; at most {MAX_TOML_BYTES} are read")
    return (_parsed_before if len(toml) <= MAX_REMEMBERED_BYTES else _parse)(toml)[0]


def policy_digest(toml: bytes) -> str:
    """sha256:<hex> of `allow.json` as it stands in the document (what InitdataRule.policyDigests lists)."""
    parse(toml)
    return (_parsed_before if len(toml) <= MAX_REMEMBERED_BYTES else _parse)(toml)[1]


def _toml(text: str) -> dict[str, Any]:
    """A document without keys of many parts, for each of which tomllib takes a time that grows with their square."""
    if _LONG_KEY.search(text):
        raise ValueError("a key has more than 64 parts")
    return tomllib.loads(text)


def _parse(toml: bytes) -> tuple[Initdata, str]:
    """The initdata and its policy's digest; whoever changed what this returns would change it for all."""
    try:
        document = _toml(toml.decode())
        if sorted(document) != ["algorithm", "data", "version"] or document["algorithm"] != "sha384":
            raise ValueError("members must be version, algorithm = sha384 and data")
        data = document["data"]
        if sorted(data) != ["allow.json", "chrysalis.toml"]:
            raise ValueError("data must hold allow.json and chrysalis.toml and nothing else")
        found = Initdata(containers=json.loads(data["allow.json"]), identity=_toml(data["chrysalis.toml"]))
        return found, "sha256:" + hashlib.sha256(data["allow.json"].encode()).hexdigest()
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise _malformed(str(error)) from error


_parsed_before = lru_cache(maxsize=REMEMBERED)(_parse)
"""The replicas of a set have the same initdata, and one appraisal asks for it several times."""


def mrconfigid(toml: bytes) -> bytes:
    """MRCONFIGID of a domain that was started with this initdata: 48 bytes."""
    return hashlib.sha384(toml).digest()


def to_annotation(toml: bytes) -> str:
    """The value of the pod's annotation; deterministic (no time in the gzip header)."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0) as stream:
        stream.write(toml)
    return base64.b64encode(buffer.getvalue()).decode()


def from_annotation(value: str) -> bytes:
    """The TOML of an annotation's value; raises InitdataError, and never unpacks more than MAX_TOML_BYTES."""
    try:
        packed = base64.b64decode(value, validate=True)
        unpacker = zlib.decompressobj(wbits=31)
        toml = unpacker.decompress(packed, MAX_TOML_BYTES + 1)
        if len(toml) > MAX_TOML_BYTES or not unpacker.eof or unpacker.unused_data:
            raise ValueError("truncated, too large, or followed by other data")
    except (ValueError, zlib.error) as error:
        raise _malformed(str(error)) from error
    return toml


def _malformed(detail: str) -> InitdataError:
    return InitdataError(
        InitdataReason.INITDATA_MALFORMED,
        "the initdata is not a document that Chrysalis renders",
        "render it with `chrysalis measure -f worker.yaml`, or let the operator do it",
        detail,
    )
