"""`chrysalis bundle …`: get, make and read evidence bundles.  `chrysalis verify --bundle` judges them."""

from __future__ import annotations

import base64
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from chrysalis.api.base import Model
from chrysalis.attestation import collateral_file, eventlog_file, pck_chain
from chrysalis.attestation import quote as quotes
from chrysalis.attestation.policy_envelope import read_envelope
from chrysalis.attestation.policy_file import MAX_POLICY_BYTES, read_policy
from chrysalis.attestation.quote_file import MAX_REPORT_BYTES
from chrysalis.cli import files, printing
from chrysalis.cli.addresses import HTTPS
from chrysalis.cli.hexadecimal import HEX32, PIN, PIN_HELP
from chrysalis.cli.owner_files import OwnerFileError, OwnerFileReason, ask, owner_key, read_text
from chrysalis.cli.times import Rfc3339
from chrysalis.clock import SystemClock, rfc3339
from chrysalis.wire import owner_token
from chrysalis.wire.broker import (
    MAX_INITDATA_BYTES,
    AttestationDocument,
    AttestResult,
    ClaimedIdentity,
    Evidence,
    Keys,
)
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.bundle import (
    MAX_BUNDLE_BYTES,
    MAX_COLLATERAL_CHARACTERS,
    Bundle,
    BundleFile,
    BundlePolicy,
    BundleResult,
    to_bytes,
    token_claim,
)

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
M = TypeVar("M", bound=Model)
PATH = click.Path(path_type=Path)
FILE = click.option("--out", "file", type=PATH, required=True, help="The bundle's file; - is standard output.")
OUTPUT = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)


@click.group("bundle")
def command() -> None:
    """Evidence bundles: everything that a verdict rests on, in one file, to be judged again at any time."""


@command.command("get")
@click.argument("result")
@click.option("--broker", "url", type=HTTPS, required=True, help="The broker's https address.")
@click.option("--pin", "spki", type=PIN, required=True, help=PIN_HELP)
@click.option("--owner-key", "owner", type=PATH, help="The signing key of the owner whose result it is.")
@click.option("--token-file", "token", type=PATH, help="A bearer token of somebody else who may read the result.")
@FILE
@OUTPUT
def get(result: str, url: str, spki: str, owner: Path | None, token: Path | None, file: Path, output: str) -> int:
    """Get the bundle of RESULT from a broker.

    It is written as it came, and its digest printed; judge it with `chrysalis verify --bundle FILE`.
    """
    if (owner is None) == (token is None):
        raise click.UsageError("give exactly one of --owner-key and --token-file")
    bearer = read_text(token).strip() if token else ""
    key = owner_key(owner) if owner else None

    def credential() -> str:
        return bearer if key is None else owner_token.make(key, SystemClock().now(), bytes.fromhex(spki))

    got: list[bytes] = []

    async def question(client: BrokerClient) -> None:
        got.append(await client.bundle(result))

    code = ask(url, spki, question, token=credential)
    if code == 0:
        _written(file, got[0], output)
    return code


@command.command("inspect")
@click.argument("file", type=PATH)
@OUTPUT
def inspect(file: Path, output: str) -> int:
    """Say what a bundle holds, without judging any of it; exit 2 when it is no bundle."""
    read = BundleFile.read(files.read(file, MAX_BUNDLE_BYTES))
    summary = _summary(read)
    if output == "json":
        click.echo(json.dumps(summary, indent=2))
    else:
        width = max(len(name) for name in summary)
        shown = ["not judged: this is what the bundle says of itself (`chrysalis verify --bundle` judges it)", ""]
        printing.lines(shown + [f"  {name:<{width}}  {_said(value)}" for name, value in summary.items() if value not in ("", None, [])])
    return 0


@command.command("make")
@click.option("--evidence", type=PATH, help="Evidence, or a worker's /.well-known/attestation, in JSON; instead of the next five.")
@click.option("--quote", type=PATH, help="The quote, in any form that `verify` reads.")
@click.option("--initdata", type=PATH, help="The initdata's TOML.")
@click.option("--event-log", type=PATH, help="The boot event log (CCEL).")
@click.option("--keys", type=PATH, help="The session's public keys, JSON: tlsSpkiSha256, hpke, receipt.")
@click.option("--nonce", type=HEX32, help="The nonce of the evidence, hex.")
@click.option("--claimed", type=PATH, help="The claimed identity, JSON, where one was bound.")
@click.option("--collateral", type=PATH, help="Intel's collateral, QuoteCollateralV3 JSON.")
@click.option("--policy", type=PATH, help="The policy: an AttestationPolicy, best with its envelope.")
@click.option("--result", type=PATH, help="The broker's answer to the attestation, JSON.")
@click.option("--at", type=Rfc3339(), help="When it was judged; default: now.")
@FILE
@OUTPUT
def make(file: Path, at: datetime | None, output: str, **given: Any) -> int:
    """Make a bundle of files that belong together; nothing of it is judged or signed."""

    judged = (at or SystemClock().now()).replace(microsecond=0)
    document = _document(given["evidence"]) if given["evidence"] else None
    evidence = document.evidence if isinstance(document, AttestationDocument) else document or _evidence(given)
    collateral = document.collateral if isinstance(document, AttestationDocument) else ""
    if given["collateral"]:
        data = files.read(given["collateral"], MAX_COLLATERAL_CHARACTERS)
        collateral = collateral_file.as_text(data, pck_chain.claimed_or_none(base64.b64decode(evidence.quote)))
    bundle = Bundle(
        source="Files",
        made_at=SystemClock().now().replace(microsecond=0),
        judged_at=judged,
        evidence=evidence,
        collateral=collateral,
        policy=_policy(given["policy"]) if given["policy"] else None,
        result=_result(given["result"]) if given["result"] else None,
    )
    _written(file, to_bytes(bundle), output)
    return 0


def _written(path: Path, file: bytes, output: str) -> None:
    """Write a bundle and print its digest and file; a bundle on standard output stands there alone."""
    if path == files.STDIN:
        BundleFile.read(file)
        sys.stdout.buffer.write(file)
        sys.stdout.buffer.flush()
        return
    found = write_bundle(path, file)
    fields = {"schemaVersion": "chrysalis/v1", "bundleDigest": found, "file": str(path), "bytes": len(file)}
    click.echo(json.dumps(fields, indent=2) if output == "json" else f"{found}  {path}")


def write_bundle(path: Path, file: bytes) -> str:
    """Write a bundle's file and return its digest; raises WireError for what is no bundle, OwnerFileError where it cannot be written."""
    read = BundleFile.read(file)
    try:
        path.write_bytes(file)
    except OSError as error:
        raise OwnerFileError(OwnerFileReason.FILE_UNUSABLE, f"{path} cannot be written", "name another file", str(error)) from error
    return read.digest


def _summary(read: BundleFile) -> dict[str, Any]:
    bundle = read.bundle
    result, broker = bundle.result, bundle.broker
    envelope = bundle.policy.envelope if bundle.policy else None
    return {
        "schemaVersion": "chrysalis/v1",
        "bundleDigest": read.digest,
        "source": bundle.source,
        "madeAt": rfc3339(bundle.made_at),
        "judgedAt": rfc3339(bundle.judged_at),
        "verdict": result.verdict if result else "",
        "reasons": [reason.reason for reason in result.reasons] if result else [],
        "resultId": result.result_id if result else "",
        "evidenceClass": result.evidence_class if result else "",
        "expiresAt": rfc3339(result.expires_at) if result and result.expires_at else "",
        "revokedAt": rfc3339(result.revoked_at) if result and result.revoked_at else "",
        "policySignedBy": [signature.keyid for signature in envelope.signatures] if envelope else [],
        "brokerPlacement": broker.placement.value if broker else "",
        "brokerEarKey": broker.ear_key if broker else "",
        "worker": "/".join(part for part in (bundle.evidence.claimed.namespace, bundle.evidence.claimed.worker_name) if part),
        "quoteBytes": len(base64.b64decode(bundle.evidence.quote)),
        "collateralBytes": len(bundle.collateral.encode()),
    }


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _document(path: Path) -> AttestationDocument | Evidence:
    raw = files.read(path, MAX_DOCUMENT_BYTES)
    try:
        whole = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _invalid(path, "evidence", str(error)) from error
    if isinstance(whole, dict) and "claimsBuffer" in whole:
        return _parsed(AttestationDocument, path, raw)
    return _parsed(Evidence, path, raw)


def _evidence(given: dict[str, Any]) -> Evidence:
    if missing := [name for name in ("quote", "initdata", "keys", "nonce") if given[name] is None]:
        raise click.UsageError(f"give --evidence, or --{' and --'.join(missing)}")
    claimed = _parsed(ClaimedIdentity, given["claimed"], files.read(given["claimed"], 65536)) if given["claimed"] else ClaimedIdentity()
    try:
        return Evidence(
            nonce=given["nonce"].hex(),
            quote=_base64(quotes.read(files.read(given["quote"], MAX_REPORT_BYTES))),
            initdata=_base64(files.read(given["initdata"], MAX_INITDATA_BYTES)),
            event_log=_event_log(given["event_log"]) if given["event_log"] else "",
            keys=_parsed(Keys, given["keys"], files.read(given["keys"], 65536)),
            claimed=claimed,
        )
    except ValidationError as error:
        raise _invalid(given["quote"], "evidence", str(error)[:1024]) from error


def _policy(path: Path) -> BundlePolicy:
    text = files.read(path, MAX_POLICY_BYTES)
    envelope = read_envelope(text)
    return BundlePolicy(envelope=envelope) if envelope else BundlePolicy(unsigned=read_policy(text))


def _result(path: Path) -> BundleResult:
    answer = _parsed(AttestResult, path, files.read(path, MAX_DOCUMENT_BYTES))
    expires: datetime = answer.expires_at
    return BundleResult(
        result_id=answer.result_id,
        verdict="Accepted",
        evidence_class=answer.evidence_class,
        tcb_status=answer.tcb_status,
        measurement_name=token_claim(answer.ear, "chrysalis_result", "measurement"),
        expires_at=expires,
        limited_by=answer.limited_by,
        ear=answer.ear,
        receipt_certificate=answer.receipt_certificate,
    )


def _event_log(path: Path) -> str:
    return _base64(eventlog_file.read(files.read(path, eventlog_file.MAX_FILE_BYTES)))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _parsed(model: type[M], path: Path, raw: bytes) -> M:
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise _invalid(path, model.__name__, str(error)[:1024]) from error


def _invalid(path: Path, what: str, detail: str) -> OwnerFileError:
    return OwnerFileError(OwnerFileReason.DOCUMENT_INVALID, f"{path} holds no {what}", "give the file as its source wrote it", detail)
