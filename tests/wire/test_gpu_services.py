"""Who is asked, over which way, and what is sent: the clients of NVIDIA's services by themselves."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from chrysalis.api.policy_gpu import GpuRevocation, GpuRules
from chrysalis.attestation.gpu import chain
from chrysalis.attestation.gpu.evidence import GpuEvidence
from chrysalis.attestation.gpu.reasons import GpuError
from chrysalis.clock import ManualClock
from chrysalis.wire import bounded_http
from chrysalis.wire.bounded_http import Bounds, Fault, HttpFault, Request
from chrysalis.wire.gpu import GpuDevice
from chrysalis.wire.gpu_service_settings import NRAS_URL, OCSP_URL, GpuServiceSettings, NrasSettings, OcspSettings
from chrysalis.wire.gpu_services import NrasClient, OcspClient, ask, authorities, request_body
from e2e.gpu_services import faults
from e2e.gpu_services.nras import SimulatedNras
from e2e.gpu_services.server import JWKS, OCSP, SimulatedGpuServices
from e2e.simtd import gpu as simulated
from e2e.simtd.gpu_pool import GpuPool

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
NONCE = bytes(range(32))
VENDOR = simulated.SimulatedGpus.create()
HOPPER, BLACKWELL, SWITCH = VENDOR.device(), VENDOR.device(simulated.BLACKWELL), VENDOR.device(simulated.LS10)


def sent(*devices: simulated.SimulatedDevice) -> list[GpuDevice]:
    return [GpuDevice.of(GpuEvidence(device.report(NONCE), device.chain)) for device in devices]


@pytest.fixture
def services(tmp_path: Path) -> Iterator[SimulatedGpuServices]:
    with SimulatedGpuServices(ManualClock(AT), tmp_path) as running:
        running.ocsp.tell(HOPPER)
        yield running


def clients(services: SimulatedGpuServices, **changes: Any) -> tuple[NrasClient, OcspClient]:
    settings = GpuServiceSettings.model_validate(services.settings(**changes))
    assert settings.nras is not None
    assert settings.ocsp is not None
    return NrasClient(settings.nras, ManualClock(AT)), OcspClient(settings.ocsp, ManualClock(AT))


# What is sent


def test_the_request_is_about_the_gpus_alone() -> None:
    listed = sent(HOPPER, SWITCH, VENDOR.device())
    body = json.loads(request_body(listed, NONCE))
    assert (body["nonce"], body["arch"], body["claims_version"]) == (NONCE.hex(), "HOPPER", "3.0")
    assert [base64.b64decode(one["evidence"]) for one in body["evidence_list"]] == [base64.b64decode(listed[n].report) for n in (0, 2)]
    assert base64.b64decode(body["evidence_list"][0]["certificate"]) == HOPPER.chain
    assert json.loads(request_body(sent(BLACKWELL), NONCE))["arch"] == "BLACKWELL"


@pytest.mark.parametrize("devices", [(HOPPER, BLACKWELL), (SWITCH,), ()])
def test_what_cannot_be_asked_in_one_request(devices: tuple[simulated.SimulatedDevice, ...]) -> None:
    with pytest.raises(GpuError) as refused:
        request_body(sent(*devices), NONCE)
    assert refused.value.reason == "GpuServiceRefused"


def test_each_authority_below_the_root_is_asked_about_once() -> None:
    pairs = authorities(sent(HOPPER, HOPPER, SWITCH))
    assert [certificate for certificate, _ in pairs] == [*HOPPER.certificates[1:-1], *SWITCH.certificates[1:-1]]
    assert all(certificate.issuer == issuer.subject for certificate, issuer in pairs)


# Over which way


class Nobody:
    """Services that must not be asked."""

    def ask(self, sent: Any, nonce: bytes) -> Any:
        raise AssertionError("asked")

    answers = ask


class Asked(Nobody):
    """A responder that answers."""

    def answers(self, pairs: Any, nonce: bytes = b"") -> Any:
        return [b"an answer"] * len(pairs)


@pytest.mark.parametrize("change", [{"complete": False}, {"certificates": HOPPER.certificates[:2]}], ids=["no root", "no authority"])
def test_nobody_is_asked_about_a_chain_that_no_answer_could_check(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    rules = GpuRules.model_validate(GpuPool(1).rules()).model_copy(update={"revocation": GpuRevocation.REQUIRED})
    whole = chain.read
    assert len(ask(sent(HOPPER), rules=rules, nonce=NONCE, nras_source=Nobody(), ocsp_source=Asked()).ocsp) == 3  # the twin
    monkeypatch.setattr(chain, "read", lambda pem: replace(whole(pem), **change))
    with pytest.raises(GpuError) as refused:
        ask(sent(HOPPER), rules=rules, nonce=NONCE, nras_source=Nobody(), ocsp_source=Nobody())
    assert (refused.value.reason, bool(refused.value.remedy)) == ("GpuRevocationNotChecked", True)


def test_the_defaults_are_nvidias() -> None:
    assert (NrasSettings().url, NrasSettings().keys_url) == (NRAS_URL, NRAS_URL + "/.well-known/jwks.json")
    assert (OcspSettings().url, OcspSettings().nonce) == (OCSP_URL, True)
    assert GpuServiceSettings().nras is None


@pytest.mark.parametrize(
    "document",
    [
        {"nras": {"url": "http://nras.example"}},
        {"nras": {"jwksUrl": "http://nras.example/jwks.json"}},
        {"nras": {"jwksUrl": "https://nras.example/jwks.json", "jwksFile": "/jwks.json"}},
        {"nras": {"timeoutSeconds": 31}},
        {"nras": {"issuer": ""}},
        {"ocsp": {"url": "ldap://ocsp.example"}},
        {"ocsp": {"timeoutSeconds": 0}},
        {"rim": {}},
    ],
)
def test_settings_that_are_not_taken(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GpuServiceSettings.model_validate(document)


def test_a_service_whose_certificate_nobody_vouches_for(services: SimulatedGpuServices) -> None:
    nras, ocsp = clients(services, nras={"caFile": None}, ocsp={"caFile": None})
    for asking in (lambda: nras.ask(sent(HOPPER), NONCE), lambda: ocsp.answers(authorities(sent(HOPPER)))):
        with pytest.raises(GpuError) as refused:
            asking()
        assert refused.value.reason == "GpuServiceUnavailable"
        assert "CERTIFICATE_VERIFY_FAILED" in refused.value.detail
    assert services.asked == {}
    nras, ocsp = clients(services)
    assert nras.ask(sent(HOPPER), NONCE).keys == services.nras.jwks  # the twin
    assert len(ocsp.answers(authorities(sent(HOPPER)))) == 3


def test_an_address_where_nobody_listens() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with pytest.raises(HttpFault) as fault:
            bounded_http.fetch(Request(f"http://127.0.0.1:{port}"), Bounds(5.0, 1024))
    assert fault.value.fault is Fault.UNREACHABLE


def test_a_redirection_is_not_followed(services: SimulatedGpuServices) -> None:
    services.behave(faults.Fault.REDIRECT, JWKS)
    nras, _ = clients(services)
    with pytest.raises(GpuError) as refused:
        nras.ask(sent(HOPPER), NONCE)
    assert "Redirected" in refused.value.detail
    assert JWKS + "x" not in services.asked


def test_a_proxy_that_gives_no_nonce_has_to_be_allowed(services: SimulatedGpuServices) -> None:
    services.behave(faults.Fault.NO_NONCE, OCSP)
    _, strict = clients(services)
    with pytest.raises(GpuError) as refused:
        strict.answers(authorities(sent(HOPPER)))
    assert "nonce" in refused.value.detail
    _, lenient = clients(services, ocsp={"nonce": False})
    assert len(lenient.answers(authorities(sent(HOPPER)))) == 3


def test_a_revoked_certificate_is_an_answer(services: SimulatedGpuServices) -> None:
    services.ocsp.revoked.add(HOPPER.certificates[1].serial_number)
    _, ocsp = clients(services)
    assert len(ocsp.answers(authorities(sent(HOPPER)))) == 3


def test_keys_are_fetched_once_for_many_answers(services: SimulatedGpuServices) -> None:
    nras, _ = clients(services)
    for _ in range(3):
        assert nras.ask(sent(HOPPER), NONCE).issuer == services.nras.issuer
    assert services.asked[JWKS] == 1


def test_an_unknown_key_does_not_repeat_a_fetch_that_fails(services: SimulatedGpuServices) -> None:
    settings, clock = GpuServiceSettings.model_validate(services.settings()).nras, ManualClock(AT)
    assert settings is not None
    client = NrasClient(settings, clock)
    before = client.ask(sent(HOPPER), NONCE).keys
    services.nras.rotate()
    services.behave(faults.Fault.FAIL, JWKS)
    for _ in range(3):
        assert client.ask(sent(HOPPER), NONCE).keys == before
    assert services.asked[JWKS] == 2
    clock.advance(3600)  # now it is old as well
    for _ in range(3):
        assert client.ask(sent(HOPPER), NONCE).keys == before
    assert services.asked[JWKS] == 3
    services.behave()
    clock.advance(61)
    assert client.ask(sent(HOPPER), NONCE).keys == services.nras.jwks != before


def test_the_simulated_service_takes_nothing_but_its_form() -> None:
    service, good = SimulatedNras(ManualClock(AT)), json.loads(request_body(sent(HOPPER), NONCE))
    assert service.answer(json.dumps(good).encode()) is not None
    for change in ({"arch": "LS10"}, {"claims_version": "1.0"}, {"evidence_list": []}, {"nonce": None, "evidence_list": 1}):
        assert service.answer(json.dumps(good | change).encode()) is None
