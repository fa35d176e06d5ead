"""`chrysalis reference …`: what a release consists of, signed by its publisher, and what was withdrawn."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import ValidationError

from chrysalis import strict_json
from chrysalis.api.policy import Envelope, InitdataRule, Measurement
from chrysalis.api.reference import GuestImage, ReferenceKind, ReferenceValues, Withdrawn, WorkerImage
from chrysalis.cli import failures, printing
from chrysalis.cli.addresses import HTTPS
from chrysalis.cli.hexadecimal import HEX32, PIN, PIN_HELP
from chrysalis.cli.oci_layout import image_of
from chrysalis.cli.owner_files import EXIT_NO, OwnerFileError, OwnerFileReason, ask, owner_key, read_text
from chrysalis.cli.times import Rfc3339
from chrysalis.clock import SystemClock, rfc3339
from chrysalis.errors import ChrysalisError
from chrysalis.wire import dsse
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.reasons import WireError
from chrysalis.wire.reference import PAYLOAD_REFERENCE_VALUES

PATH = click.Path(path_type=Path)
OUTPUT = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
DEFAULT_DAYS = 365
REGISTERS = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrowner", "mrownerconfig")
KINDS = [kind.value for kind in ReferenceKind]


class ReferenceReason(StrEnum):
    """Why a publisher's reference values are not to be relied on."""

    REFERENCE_VALUES_MISSING = "ReferenceValuesMissing"
    REFERENCE_VALUES_EXPIRED = "ReferenceValuesExpired"


class ReferenceValuesError(ChrysalisError):
    """Reference values that are not there, or not current."""


@click.group("reference")
def command() -> None:
    """Reference values: what each release publishes, and what it withdraws."""


@command.command("make")
@click.option("--release", required=True, help="The release's version.")
@click.option("--previous", type=PATH, help="The document before this one: its withdrawals are repeated, its version counted up.")
@click.option("--image", "images", type=PATH, multiple=True, help="An OCI image layout of a worker image (`python -m e2e.images`).")
@click.option("--template", "templates", type=int, multiple=True, help="A template version.")
@click.option("--policy-digest", "digests", multiple=True, help="sha256:<hex> of an allow.json (`chrysalis measure`).")
@click.option("--guest", "guests", type=PATH, multiple=True, help="JSON with name and registers of a guest image.")
@click.option("--withdraw", nargs=3, metavar="KIND VALUE WHY", multiple=True, help=f"Withdraw a value; KIND: {', '.join(KINDS[:3])}.")
@click.option("--withdraw-guest", nargs=2, metavar="FILE WHY", multiple=True, help="Withdraw a guest image by its registers.")
@click.option("--expires", type=Rfc3339(), help=f"Until when the values may be relied on; default: in {DEFAULT_DAYS} days.")
def make(
    release: str,
    previous: Path | None,
    images: tuple[Path, ...],
    templates: tuple[int, ...],
    digests: tuple[str, ...],
    guests: tuple[Path, ...],
    withdraw: tuple[tuple[str, str, str], ...],
    withdraw_guest: tuple[tuple[str, str], ...],
    expires: datetime | None,
) -> int:
    """Write a release's reference values, unsigned, to standard output; `chrysalis reference sign` signs them."""
    now = SystemClock().now().replace(microsecond=0)
    before = document_in(previous) if previous else None
    gone = list(before.withdrawn) if before else []
    known = {entry.key for entry in gone}
    try:
        new = [Withdrawn(kind=ReferenceKind(kind), value=value, why=why, since=now) for kind, value, why in withdraw]
        for file, why in withdraw_guest:
            guest = GuestImage.model_validate(_json(Path(file)))
            new.append(Withdrawn(kind=ReferenceKind.GUEST_IMAGE, value=guest.name, why=why, since=now, registers=guest))
        found = [image_of(path) for path in images]
        values = ReferenceValues(
            version=before.version + 1 if before else 1,
            release=release,
            issued=now,
            expires=expires or now + timedelta(days=DEFAULT_DAYS),
            worker_images=[WorkerImage(digest=image.digest, layers=image.layers) for image in found],
            template_versions=sorted(set(templates)),
            policy_digests=list(digests),
            guest_images=[GuestImage.model_validate(_json(path)) for path in guests],
            withdrawn=gone + [entry for entry in new if entry.key not in known],
        )
    except (ValidationError, ValueError) as error:
        raise OwnerFileError(
            OwnerFileReason.DOCUMENT_INVALID, "these are no reference values", "correct what the detail names", str(error)[:1024]
        ) from error
    click.echo(json.dumps(values.to_json_dict(), indent=1))
    return 0


@command.command("sign")
@click.option("-f", "--filename", "file", type=PATH, required=True, help="Reference values, JSON, as `reference make` writes them.")
@click.option("--publisher-key", "key_file", type=PATH, required=True, help="The publisher's signing key (`chrysalis keys new-owner`).")
@click.option("--put", "url", type=HTTPS, help="Store them at this broker, too.")
@click.option("--pin", "spki", type=PIN, help=PIN_HELP)
def sign(file: Path, key_file: Path, url: str | None, spki: str | None) -> int:
    """Sign reference values and print the envelope.

    At a broker, version only grows, and what was withdrawn stays withdrawn; a new withdrawal ends living results within seconds.
    """
    if (url is None) != (spki is None):
        raise click.UsageError("--put and --pin belong together")
    text = read_text(file)
    parsed(text.encode(), file)
    envelope = dsse.sign(PAYLOAD_REFERENCE_VALUES, text.encode(), owner_key(key_file))
    if url is not None and spki is not None:
        code = ask(url, spki, lambda client: client.put_reference_values(envelope))
        if code:
            return code
    click.echo(json.dumps(envelope.to_json_dict(), indent=1))
    return 0


@command.command("get")
@click.option("--broker", "url", type=HTTPS, required=True, help="The broker's https address.")
@click.option("--pin", "spki", type=PIN, required=True, help=PIN_HELP)
@click.option("--publisher", type=HEX32, required=True, help="The publisher's key (hex).")
@OUTPUT
def get(url: str, spki: str, publisher: bytes, output: str) -> int:
    """Show a publisher's reference values as a broker has them; exit 1 when it has none under this key, or they have expired."""
    got: list[Envelope] = []

    async def question(client: BrokerClient) -> None:
        got.extend(await client.reference_values())

    code = ask(url, spki, question)
    if code:
        return code
    mine = [envelope for envelope in got if any(s.keyid == publisher.hex() for s in envelope.signatures)]
    if not mine:
        message = f"the broker has no reference values of publisher {publisher.hex()}"
        absent = ReferenceValuesError(ReferenceReason.REFERENCE_VALUES_MISSING, message, "store them with `chrysalis reference sign --put`")
        return failures.tell([absent], EXIT_NO)
    return _show(mine[0], publisher, output)


@command.command("show")
@click.argument("file", type=PATH)
@click.option("--publisher", type=HEX32, required=True, help="The publisher's key (hex).")
@OUTPUT
def show(file: Path, publisher: bytes, output: str) -> int:
    """Check the signature and dates of reference values in FILE and show them; exit 1 when one of them does not hold."""
    return _show(envelope_in(file), publisher, output)


@command.command("policy")
@click.argument("file", type=PATH)
@click.option("--publisher", type=HEX32, required=True, help="The publisher's key (hex).")
@OUTPUT
def policy(file: Path, publisher: bytes, output: str) -> int:
    """Print entries for spec.tdx.measurements of an AttestationPolicy, one for each guest image; exit 1 when FILE does not hold.

    A register that the publisher says nothing of is Any, to be narrowed; every owner's wallet is allowed.  The entries expire with
    the values.
    """
    envelope = envelope_in(file)
    try:
        values = verified(envelope, publisher)
    except WireError as error:
        return failures.tell([error], EXIT_NO)
    if not values.current(SystemClock().now()):
        return failures.tell([_expired(values)], EXIT_NO)
    rule = InitdataRule(
        policy_digests=values.policy_digests,
        template_versions=values.template_versions,
        image_digests=[image.digest for image in values.worker_images],
        wallets="Any",
    )
    entries = []
    for guest in values.guest_images:
        registers = dict.fromkeys(REGISTERS, "Any") | guest.registers()
        members = {"name": guest.name, "expires": values.expires, "initdata": rule, **registers}
        entries.append(Measurement.model_validate(members).to_json_dict())
    click.echo(json.dumps(entries, indent=1) if output == "json" else yaml.safe_dump(entries, sort_keys=False).rstrip("\n"))
    return 0


def envelope_in(file: Path) -> Envelope:
    """The signed envelope in a file; raises OwnerFileError."""
    try:
        return Envelope.model_validate_json(read_text(file))
    except ValidationError as error:
        raise _invalid(file, str(error)[:1024]) from error


def document_in(file: Path) -> ReferenceValues:
    """The reference values in a file, signed (the signature is not checked) or bare; raises OwnerFileError."""
    text = read_text(file)
    try:
        envelope = Envelope.model_validate_json(text)
        payload = dsse.payload_of(envelope)
    except (ValidationError, WireError):
        payload = text.encode()
    return parsed(payload, file)


def verified(envelope: Envelope, publisher: bytes) -> ReferenceValues:
    """The values that this publisher signed; raises WireError and OwnerFileError."""
    return parsed(dsse.verify(envelope, PAYLOAD_REFERENCE_VALUES, [publisher]).payload, Path("the envelope"))


def parsed(payload: bytes, file: Path) -> ReferenceValues:
    """Reference values in JSON; raises OwnerFileError."""
    try:
        strict_json.each_once(payload)
        return ReferenceValues.model_validate_json(payload)
    except (ValidationError, strict_json.MemberTwice) as error:
        raise _invalid(file, str(error)[:1024]) from error


def _expired(values: ReferenceValues) -> ReferenceValuesError:
    message = f"the reference values were for use until {rfc3339(values.expires)}"
    return ReferenceValuesError(ReferenceReason.REFERENCE_VALUES_EXPIRED, message, "get the publisher's newest ones")


def _show(envelope: Envelope, publisher: bytes, output: str) -> int:
    try:
        values = verified(envelope, publisher)
    except WireError as error:
        return failures.tell([error], EXIT_NO)
    current = values.current(SystemClock().now())
    if output == "json":
        verdict = "Accepted" if current else "Refused"
        reasons = [] if current else [_expired(values).as_dict()]
        printing.document({"verdict": verdict, "reasons": reasons, "referenceValues": values.to_json_dict()})
    else:
        printing.lines(_lines(values, current))
        if not current:
            failures.tell([_expired(values)], EXIT_NO)
    return 0 if current else EXIT_NO


def _lines(values: ReferenceValues, current: bool) -> list[str]:
    state = "" if current else "  NOT CURRENT"
    lines = [f"release {values.release}, version {values.version}, until {rfc3339(values.expires)}{state}"]
    lines += [f"  worker image    {image.digest}" for image in values.worker_images]
    lines += [f"  template        {version}" for version in values.template_versions]
    lines += [f"  policy digest   {digest}" for digest in values.policy_digests]
    lines += [f"  guest image     {guest.name}: {guest.registers()}" for guest in values.guest_images]
    lines += [f"  WITHDRAWN       {entry.kind} {entry.value} since {rfc3339(entry.since)}: {entry.why}" for entry in values.withdrawn]
    return lines


def _json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise _invalid(path, str(error)) from error


def _invalid(file: Path, detail: str) -> OwnerFileError:
    return OwnerFileError(
        OwnerFileReason.DOCUMENT_INVALID, f"{file} holds no reference values", "give what `chrysalis reference` wrote", detail
    )
