"""Options of a command that may ask NVIDIA's services about a worker's GPUs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from chrysalis.attestation.gpu.nras import ISSUER
from chrysalis.clock import SystemClock
from chrysalis.wire.gpu_service_settings import NRAS_URL, OCSP_URL, GpuServiceSettings, OcspSettings
from chrysalis.wire.gpu_services import GpuServices, OcspClient

Callback = Callable[..., int]
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OPTIONS = (
    click.option("--nras-url", help=f"For a policy with gpu.backend NRAS: the attestation service to ask, NVIDIA's is {NRAS_URL}."),
    click.option("--nras-keys", type=_FILE, help="The attestation service's key set (JWKS), pinned; else it is fetched from the service."),
    click.option("--nras-issuer", default=ISSUER, show_default=True, help="Whose tokens the service's answer must hold."),
    click.option("--ocsp-url", help=f"For a policy with gpu.revocation Required: the OCSP responder to ask, NVIDIA's is {OCSP_URL}."),
    click.option("--gpu-services-ca", type=_FILE, help="PEM of who signed the certificates of both; else the system's authorities."),
)


def gpu_service_options(callback: Callback) -> Callback:
    """Give a command these options; it is called with `gpu_services`, None where no service is named."""

    @functools.wraps(callback)
    def with_services(**given: Any) -> int:
        names = ("nras_url", "nras_keys", "nras_issuer", "ocsp_url", "gpu_services_ca")
        return callback(gpu_services=services(**{name: given.pop(name) for name in names}), **given)

    for option in reversed(OPTIONS):
        with_services = option(with_services)
    return with_services


def ocsp_client(url: str, authorities: Path | None) -> OcspClient:
    """Who is asked about certificates, by `--ocsp-url` and `--gpu-services-ca`; raises click.UsageError."""
    try:
        return OcspClient(OcspSettings.model_validate({"url": url, "caFile": authorities}), SystemClock())
    except ValidationError as error:
        raise click.UsageError(f"--ocsp-url: {error.errors()[0]['msg']}") from error
    except OSError as error:
        raise click.UsageError(f"--gpu-services-ca cannot be used: {error}") from error


def services(
    nras_url: str | None, nras_keys: Path | None, nras_issuer: str, ocsp_url: str | None, gpu_services_ca: Path | None
) -> GpuServices | None:
    """Who is asked; raises click.UsageError for addresses and files that cannot be used."""
    if nras_keys is not None and nras_url is None:
        raise click.UsageError("--nras-keys belongs to --nras-url")
    if nras_url is None and ocsp_url is None:
        return None
    document: dict[str, Any] = {}
    if nras_url is not None:
        document["nras"] = {"url": nras_url, "issuer": nras_issuer, "jwksFile": nras_keys, "caFile": gpu_services_ca}
    if ocsp_url is not None:
        document["ocsp"] = {"url": ocsp_url, "caFile": gpu_services_ca}
    try:
        return GpuServices(GpuServiceSettings.model_validate(document), SystemClock())
    except ValidationError as error:
        named = {"nras": "--nras-url", "ocsp": "--ocsp-url"}[str(error.errors()[0]["loc"][0])]
        raise click.UsageError(f"{named}: {error.errors()[0]['msg']}") from error
    except OSError as error:
        raise click.UsageError(f"--gpu-services-ca cannot be used: {error}") from error
