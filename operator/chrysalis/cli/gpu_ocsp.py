"""Options of a command that judges whether certificates of GPUs or of RIMs were revoked: OCSP answers given, or asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from chrysalis.api.policy_gpu import GpuRevocation
from chrysalis.attestation.gpu import ocsp
from chrysalis.attestation.gpu.reasons import GpuError
from chrysalis.attestation.gpu.verdict import Finding
from chrysalis.cli import gpu_files
from chrysalis.cli.gpu_service_options import ocsp_client
from chrysalis.wire.gpu_service_settings import OCSP_URL
from chrysalis.wire.gpu_services import OcspClient, Pair, each_once

Callback = Callable[..., int]
OPTIONS = (
    click.option(
        "--ocsp",
        "answers",
        type=click.Path(path_type=Path),
        multiple=True,
        help="An OCSP answer (DER) about a certificate of a device's chain, or of a RIM's signer.",
    ),
    click.option("--ocsp-url", help=f"The OCSP responder to ask about them now, NVIDIA's is {OCSP_URL}."),
    click.option(
        "--gpu-services-ca",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="PEM of who signed the responder's certificate; else the system's authorities.",
    ),
    click.option(
        "--revocation",
        type=click.Choice([rule.value for rule in GpuRevocation], case_sensitive=False),
        help="Required: refuse where not every certificate has a good answer; default: Optional.",
    ),
)


@dataclass(frozen=True)
class Ocsp:
    """What a command line says of OCSP.  rule: None where it says nothing."""

    paths: tuple[Path, ...]
    client: OcspClient | None
    rule: GpuRevocation | None

    @property
    def required(self) -> bool:
        """Whether NotChecked is a refusal."""
        return self.rule is GpuRevocation.REQUIRED

    def given(self) -> list[tuple[Path, bytes]]:
        """The answers' files; raises GpuError (GpuFileUnreadable)."""
        return [(path, gpu_files.read(path, ocsp.MAX_RESPONSE_BYTES)) for path in self.paths]

    def asked(self, pairs: Sequence[Pair]) -> list[bytes]:
        """The responder's answers about these certificates, none where none is named; raises GpuError (GpuServiceUnavailable)."""
        return self.client.answers(each_once(pairs)) if self.client is not None and pairs else []


def read(given: Sequence[tuple[Path, bytes]]) -> tuple[list[ocsp.Answer], list[tuple[Path, Finding]]]:
    """The answers that can be read, and what is wrong with the others."""
    answers: list[ocsp.Answer] = []
    findings: list[tuple[Path, Finding]] = []
    for path, data in given:
        try:
            answers += ocsp.read([data])
        except GpuError as error:
            findings.append((path, Finding.from_error(error)))
    return answers, findings


def ocsp_options(callback: Callback) -> Callback:
    """Give a command these options; it is called with `asking`, an Ocsp."""

    @functools.wraps(callback)
    def with_ocsp(**given: Any) -> int:
        paths, url, authorities, word = (given.pop(name) for name in ("answers", "ocsp_url", "gpu_services_ca", "revocation"))
        if len(paths) > ocsp.MAX_RESPONSES:
            raise click.UsageError(f"there are {len(paths)} --ocsp; at most {ocsp.MAX_RESPONSES} are read")
        if url is not None and given.get("at") is not None:
            raise click.UsageError("--ocsp-url asks now, and --at judges at another time; give --ocsp with answers of that time")
        if authorities is not None and url is None:
            raise click.UsageError("--gpu-services-ca belongs to --ocsp-url")
        client = ocsp_client(url, authorities) if url is not None else None
        return callback(asking=Ocsp(paths, client, GpuRevocation(word) if word is not None else None), **given)

    for option in reversed(OPTIONS):
        with_ocsp = option(with_ocsp)
    return with_ocsp
