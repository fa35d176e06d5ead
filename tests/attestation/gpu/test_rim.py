"""RIMs: what is accepted is signed in the trusted root's name and says what a GPU's firmware may be; anything else is refused."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from chrysalis.attestation.gpu import rim
from chrysalis.attestation.gpu.reasons import GpuError
from e2e.simtd import gpu as simulated
from e2e.simtd.gpu import HASH, OPAQUE, SWID, RimShape, SimulatedGpus

AT = datetime(2026, 11, 1, tzinfo=UTC)
VENDOR = SimulatedGpus.create()
ROOT = rim.root_digest(VENDOR.rim_root_der)
GOOD = VENDOR.rim(RimShape())
DSIG = "{http://www.w3.org/2000/09/xmldsig#}"


def _digest(data: bytes, at: datetime | None = AT) -> str:
    """The reason, or nothing where it is accepted."""
    try:
        rim.digest(data, at=at, root_sha256=ROOT)
    except GpuError as error:
        return str(error.reason)
    return ""


def _resource(tag: etree._Element, index: int) -> etree._Element:
    return tag.find(f"{{{SWID}}}Payload").findall(f"{{{SWID}}}Resource")[index]


def _set(index: int, name: str, value: str) -> Callable[[etree._Element], None]:
    return lambda tag: _resource(tag, index).set(name, value)


def _signed(edit: Callable[[etree._Element], None]) -> bytes:
    return VENDOR.rim(RimShape(edit=edit))


def _after(edit: Callable[[etree._Element], None]) -> bytes:
    """Changed after it was signed."""
    tag = etree.fromstring(GOOD)
    edit(tag)
    return bytes(etree.tostring(tag))


def _wrapped(tag: etree._Element) -> None:
    """The classic wrapping: the signed tag moved inside, other values outside."""
    inner = etree.fromstring(GOOD)
    _resource(tag, 7).set(f"{{{HASH}}}Hash0", "11" * 48)
    tag.find(f"{DSIG}Signature").append(inner)


def _chain_reversed(tag: etree._Element) -> None:
    data = tag.find(f"{DSIG}Signature/{DSIG}KeyInfo/{DSIG}X509Data")
    data[:] = list(reversed(data))


def _drop(path: str) -> Callable[[etree._Element], None]:
    def edit(tag: etree._Element) -> None:
        found = tag.find(path)
        found.getparent().remove(found)

    return edit


def _again(path: str) -> Callable[[etree._Element], None]:
    def edit(tag: etree._Element) -> None:
        found = tag.find(path)
        found.getparent().append(etree.fromstring(etree.tostring(found)))

    return edit


def _least(**attributes: str | None) -> bytes:
    """A RIM with one field's least security version, some of whose attributes are others (None: left out)."""

    def edit(tag: etree._Element) -> None:
        found = _resource(tag, -1)
        for name, value in attributes.items():
            place = f"{{{OPAQUE}}}{name}" if name == "minSvn" else f"{{{HASH}}}Hash0" if name == "digest" else name
            found.attrib.pop(place, None)
            if value is not None:
                found.set(place, value)

    return VENDOR.rim(RimShape(security_versions={37: 5}, edit=edit))


def _named_twice(tag: etree._Element) -> None:
    _resource(tag, -1).set("name", str(_resource(tag, -2).get("name")))


ROWS: dict[str, tuple[str, bytes]] = {
    "empty": ("RimMalformed", b""),
    "no XML": ("RimMalformed", b"<Software"),
    "too large": ("RimMalformed", GOOD + b" " * 2 * rim.MAX_RIM_BYTES),
    "large without padding": ("RimMalformed", GOOD + b"<!--" + b"x" * rim.MAX_RIM_BYTES + b"-->"),
    "JSON of something else": ("RimMalformed", b'{"measurements": []}'),
    "JSON around no base64": ("RimMalformed", b'{"rim": "<>"}'),
    "JSON with another digest": ("RimMalformed", json.dumps({"rim": base64.b64encode(GOOD).decode(), "sha256": "0" * 64}).encode()),
    "JSON with a digest that is none": ("RimMalformed", json.dumps({"rim": base64.b64encode(GOOD).decode(), "sha256": 7}).encode()),
    "JSON around two": ("RimMalformed", json.dumps([{"rim": base64.b64encode(GOOD).decode()}] * 2).encode()),
    "JSON that names it twice": ("RimMalformed", b'{"rim": "", "rim": ""}'),
    "deep JSON": ("RimMalformed", b"[" * 100_000),
    "a CoRIM": ("RimMalformed", b"\xd9\x01\xf5\xa1"),
    "JSON around a CoRIM": ("RimMalformed", json.dumps({"rim": base64.b64encode(b"\xd2\x84\x40").decode()}).encode()),
    "gzip that is cut": ("RimMalformed", gzip.compress(GOOD)[:-9]),
    "document type": ("RimMalformed", b'<!DOCTYPE x [<!ENTITY e "x">]>' + GOOD),
    "external entity": ("RimMalformed", b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>' + GOOD),
    "UTF-16": ("RimMalformed", GOOD.decode().encode("utf-16")),
    "another document": ("RimMalformed", b"<other/>"),
    "no signature": ("RimMalformed", _after(_drop(f"{DSIG}Signature"))),
    "two signatures": ("RimMalformed", _after(_again(f"{DSIG}Signature"))),
    "no Meta": ("RimMalformed", _signed(_drop(f"{{{SWID}}}Meta"))),
    "two payloads": ("RimMalformed", _signed(_again(f"{{{SWID}}}Payload"))),
    "unknown product": ("RimMalformed", _signed(lambda tag: tag.find(f"{{{SWID}}}Meta").set("product", "TU102"))),
    "no version": ("RimMalformed", _signed(lambda tag: tag.find(f"{{{SWID}}}Meta").set("colloquialVersion", ""))),
    "no tag id": ("RimMalformed", _signed(lambda tag: tag.set("tagId", ""))),
    "index twice": ("RimMalformed", _signed(_set(7, "index", "8"))),
    "no index": ("RimMalformed", _signed(_set(7, "index", "x"))),
    "index out of range": ("RimMalformed", _signed(_set(7, "index", "300"))),
    "neither active nor not": ("RimMalformed", _signed(_set(7, "active", "maybe"))),
    "alternatives that are not there": ("RimMalformed", _signed(_set(7, "alternatives", "2"))),
    "digest of another size": ("RimMalformed", _signed(_set(7, f"{{{HASH}}}Hash0", "11" * 32))),
    "digest is no digest": ("RimMalformed", _signed(_set(7, f"{{{HASH}}}Hash0", "zz" * 48))),
    "no measurement": ("RimMalformed", _signed(_set(7, "type", "Opaque"))),
    "a security version without the least": ("RimMalformed", _least(minSvn=None)),
    "a least one that is no number": ("RimMalformed", _least(minSvn="0x5")),
    "a least one that is negative": ("RimMalformed", _least(minSvn="-1")),
    "a least one that nothing can reach": ("RimMalformed", _least(minSvn="65536")),
    "a security version without a name": ("RimMalformed", _least(name=None)),
    "a security version with a digest": ("RimMalformed", _least(digest="11" * 48)),
    "a security version of no field": ("RimMalformed", _least(index=str(0x1000 + 0x10000))),
    "a security version neither active nor not": ("RimMalformed", _least(active="")),
    "two security versions of one field": (
        "RimMalformed",
        VENDOR.rim(RimShape(security_versions={37: 5, 38: 5}, edit=_set(-1, "index", str(0x1000 + 37)))),
    ),
    "two security versions of one name": ("RimMalformed", VENDOR.rim(RimShape(security_versions={37: 5, 38: 5}, edit=_named_twice))),
    "the least one changed": (
        "RimSignatureInvalid",
        VENDOR.rim(RimShape(security_versions={37: 5})).replace(b'minSvn="5"', b'minSvn="4"'),
    ),
    "none active": ("RimMalformed", VENDOR.rim(RimShape(indices=()))),
    "a value changed": ("RimSignatureInvalid", _after(_set(7, f"{{{HASH}}}Hash0", "11" * 48))),
    "switched off": ("RimSignatureInvalid", _after(_set(7, "active", "False"))),
    "version changed": ("RimSignatureInvalid", _after(lambda tag: tag.find(f"{{{SWID}}}Meta").set("colloquialVersion", "1.1"))),
    "element added": ("RimSignatureInvalid", _after(lambda tag: tag.append(etree.Element("x")))),
    "signed tag moved inside": ("RimSignatureInvalid", _after(_wrapped)),
    "signature of another tag": (
        "RimSignatureInvalid",
        _after(
            lambda tag: tag.replace(
                tag.find(f"{DSIG}Signature"), etree.fromstring(VENDOR.rim(RimShape(version="1.1"))).find(f"{DSIG}Signature")
            )
        ),
    ),
    "another vendor": ("RimSignerInvalid", SimulatedGpus.create().rim(RimShape())),
    "no certificates": ("RimSignerInvalid", _after(_drop(f"{DSIG}Signature/{DSIG}KeyInfo"))),
    "certificates in another order": ("RimSignerInvalid", _after(_chain_reversed)),
    "signer expired": ("RimExpired", VENDOR.rim(RimShape(not_after=datetime(2026, 10, 31, tzinfo=UTC)))),
}


@pytest.mark.parametrize("name", ROWS)
def test_refused(name: str) -> None:
    expected, data = ROWS[name]
    reason = _digest(data)
    # A wrapped tag has two signatures below it; either reason is about that.
    assert reason == expected or (name == "signed tag moved inside" and reason == "RimMalformed")


def test_the_values() -> None:
    values = rim.digest(GOOD, at=AT, root_sha256=ROOT)
    assert (values.kind, values.version, values.architecture) == ("Driver", simulated.DRIVER, "Hopper")
    assert [value.index for value in values.values] == list(simulated.DRIVER_INDICES)
    assert values.values[0].digests == [simulated.measured(7).hex()]
    assert values.expires == simulated.NOT_AFTER


def test_least_security_versions() -> None:
    values = rim.digest(VENDOR.rim(RimShape(security_versions={38: 0, 0: 65535})), at=AT, root_sha256=ROOT)
    stated = [(one.field, one.name, one.minimum) for one in values.security_versions or ()]
    assert stated == [(0, "FIELD_0_MIN_SVN", 65535), (38, "FIELD_38_MIN_SVN", 0)]
    assert values.values == rim.digest(GOOD, at=AT, root_sha256=ROOT).values
    assert values.model_validate_json(rim.canonical(values)) == values


def test_inactive_security_versions_say_nothing() -> None:
    for data in (_least(active="False"), _least(active="False", minSvn=None)):
        assert rim.digest(data, at=AT, root_sha256=ROOT) == rim.digest(GOOD, at=AT, root_sha256=ROOT)


def test_values_without_security_versions_keep_their_form() -> None:
    assert b"securityVersions" not in rim.canonical(rim.digest(GOOD, at=AT, root_sha256=ROOT))


@pytest.mark.parametrize(
    "data",
    [
        GOOD + bytes(100),
        b"\xef\xbb\xbf" + GOOD + b"\r\n",
        b'<?xml version="1.0" encoding="UTF-8"?>\n' + GOOD,
        json.dumps({"id": "NV_GPU_DRIVER", "rim": base64.b64encode(GOOD).decode()}).encode(),
        json.dumps({"rim": base64.b64encode(GOOD).decode(), "sha256": hashlib.sha256(GOOD).hexdigest()}, indent=1).encode(),
        json.dumps({"rim": base64.encodebytes(GOOD).decode(), "sha256": hashlib.sha256(GOOD).hexdigest().upper()}).encode(),
        json.dumps([{"data": {"rim": base64.urlsafe_b64encode(GOOD).decode().rstrip("=")}}]).encode(),
        json.dumps({"rim": GOOD.decode()}).encode(),
        base64.b64encode(GOOD),
        gzip.compress(GOOD),
    ],
)
def test_padding_and_wrapping_do_not_matter(data: bytes) -> None:
    assert rim.digest(data, at=AT, root_sha256=ROOT) == rim.digest(GOOD, at=AT, root_sha256=ROOT)


def test_equal_values_have_one_form() -> None:
    one, two = (rim.digest(VENDOR.rim(RimShape()), at=AT, root_sha256=ROOT) for _ in range(2))
    assert rim.canonical(one) == rim.canonical(two)
    assert one.model_validate_json(rim.canonical(one)) == one


def test_without_a_time_expiry_is_left_to_the_appraisal() -> None:
    ends = datetime(2026, 10, 31, tzinfo=UTC)
    assert rim.digest(VENDOR.rim(RimShape(not_after=ends)), at=None, root_sha256=ROOT).expires == ends


def test_nvidias_root_is_the_default() -> None:
    with pytest.raises(GpuError) as refused:
        rim.digest(GOOD, at=AT)
    assert refused.value.reason == "RimSignerInvalid"


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=3))
def test_no_changed_byte_changes_what_is_accepted(position: int, value: bytes) -> None:
    data = GOOD[:position] + value + GOOD[position + len(value) :]
    try:
        found = rim.digest(data, at=AT, root_sha256=ROOT)
    except GpuError:
        return
    assert found == rim.digest(GOOD, at=AT, root_sha256=ROOT)


XML_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=12)


@given(
    attribute=st.sampled_from(["index", "active", "name", "minSvn", "size", "alternatives"]),
    value=st.one_of(XML_TEXT, st.integers(-(2**33), 2**33).map(str)),
)
def test_whatever_a_signed_tag_says_of_security_versions_is_taken_or_refused(attribute: str, value: str) -> None:
    data = _least(**{attribute: value})
    reason = _digest(data)
    assert reason in ("", "RimMalformed")
    if not reason:
        found = rim.digest(data, at=AT, root_sha256=ROOT).security_versions or ()
        assert all(0 <= one.minimum <= 0xFFFF and 0 <= one.field <= 0xFFFF for one in found)
