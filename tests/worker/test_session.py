"""An attestation in which one thing is wrong, and the one in which nothing is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from chrysalis.api.worker import Isolation
from chrysalis.clock import unix
from chrysalis.errors import ChrysalisError
from chrysalis.wire.ear_keys import CertifiedKey
from chrysalis.wire.recalls import RecalledKey, RecallList
from chrysalis_worker import keys, podinfo
from chrysalis_worker.reasons import WorkerError

ZEROS = "00" * 32


def ear(**changes: Any) -> Callable[[Any], None]:
    def apply(world: Any) -> None:
        world.broker.edit_ear = lambda token: token.model_copy(update=changes)

    return apply


def ear_part(part: str, **changes: Any) -> Callable[[Any], None]:
    def apply(world: Any) -> None:
        world.broker.edit_ear = lambda token: token.model_copy(update={part: getattr(token, part).model_copy(update=changes)})

    return apply


def certificate(**changes: Any) -> Callable[[Any], None]:
    def apply(world: Any) -> None:
        world.broker.edit_certificate = lambda made: made.model_copy(update=changes)

    return apply


def set_on(path: str, value: Any) -> Callable[[Any], None]:
    def apply(world: Any) -> None:
        target = world
        *parents, last = path.split(".")
        for name in parents:
            target = getattr(target, name)
        setattr(target, last, value)

    return apply


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda w: None, None),
        (set_on("source.mrconfigid", bytes(48)), "InitdataMismatch"),
        (set_on("source.lie", lambda report_data: bytes(64)), "EvidenceMismatch"),
        (set_on("broker.ear_key", Ed25519PrivateKey.generate()), "ResultInvalid"),
        (ear(nonce=ZEROS), "ResultInvalid"),
        (ear(jti="other"), "ResultInvalid"),
        (ear(exp=1 << 40), "ResultInvalid"),
        (ear(exp=1), "ResultInvalid"),
        (ear_part("cnf", spki_sha256=ZEROS), "ResultInvalid"),
        (ear_part("keys", hpke=ZEROS), "ResultInvalid"),
        (ear_part("keys", receipt=ZEROS), "ResultInvalid"),
        (ear_part("keys", tls_spki_sha256=ZEROS), "ResultInvalid"),
        (ear_part("result", key_id="other"), "ResultInvalid"),
        (ear_part("result", model_digest="sha256:" + ZEROS), "ResultInvalid"),
        (ear_part("result", isolation=Isolation.NODE_TD), "ResultInvalid"),
        (certificate(receipt_key=ZEROS), "ReceiptCertificateInvalid"),
        (certificate(set="none"), "ReceiptCertificateInvalid"),
        (certificate(wallet="0:" + ZEROS), "ReceiptCertificateInvalid"),
        (certificate(reservation_keys=[ZEROS]), "ReceiptCertificateInvalid"),
        (certificate(result_id="other"), "ReceiptCertificateInvalid"),
    ],
)
def test_one_thing_is_wrong(make_world: Any, change: Callable[[Any], None], expected: str | None) -> None:
    world = make_world()
    change(world)
    if expected is None:
        session = asyncio.run(world.attester.attest())
        assert session.result.result_id == "0192-00000001"
        return
    with pytest.raises(WorkerError) as caught:
        asyncio.run(world.attester.attest())
    assert caught.value.reason == expected
    assert caught.value.remedy


@pytest.mark.parametrize("recalled", ["another", "the signer", "forged"])
def test_a_result_that_a_recalled_key_signed_is_not_taken(make_world: Any, recalled: str) -> None:
    world = make_world()
    now = unix(world.clock.now())
    times = {"not_before": now, "signs_until": now + 900, "verifies_until": now + 1800}
    signer = world.broker.signer = CertifiedKey.issue(Ed25519PrivateKey.generate(), world.broker.ear_key, **times)
    kid = signer.kid if recalled == "the signer" else "A" * 43
    anchor = Ed25519PrivateKey.generate() if recalled == "forged" else world.broker.ear_key
    world.broker.recalls = RecallList(iat=now, keys=[RecalledKey(kid=kid, recalled_at=now)]).sign(anchor)
    if recalled == "another":
        assert asyncio.run(world.attester.attest()).result.recalls
        return
    with pytest.raises(WorkerError) as caught:
        asyncio.run(world.attester.attest())
    assert caught.value.reason == "ResultInvalid"
    assert ("KeyRecalled" if recalled == "the signer" else "RecallsInvalid") in caught.value.message


def test_the_result_ends_by_the_monotonic_clock_whatever_the_host_says_the_time_is(make_world: Any) -> None:
    world = make_world()
    session = asyncio.run(world.attested())
    assert (session.deadline, session.renew_at) == (600.0, 400.0)
    world.clock._at -= timedelta(days=1)
    world.clock._monotonic += 599.9
    assert world.state.ready
    world.clock._monotonic += 0.2
    assert not world.state.ready


def test_each_attestation_has_its_own_tls_key_and_the_same_other_keys(make_world: Any) -> None:
    world = make_world()
    for _ in range(2):
        asyncio.run(world.attester.attest())
    one, two = (e.keys for e in world.broker.attested)
    assert one.tls_spki_sha256 != two.tls_spki_sha256
    assert (one.hpke, one.receipt) == (two.hpke, two.receipt)


def test_the_domains_keys_survive_the_agent_and_not_their_files(make_world: Any) -> None:
    world = make_world()
    folder = world.paths.receipts
    assert keys.domain_keys(folder).wrk == world.domain.wrk
    assert (folder / "receipt.key").stat().st_mode & 0o777 == 0o600
    (folder / "receipt.key").write_bytes(b"short")
    with pytest.raises(WorkerError) as caught:
        keys.domain_keys(folder)
    assert caught.value.reason == "KeysDamaged"
    (folder / "receipt.key").unlink()
    assert keys.domain_keys(folder).wrk != world.domain.wrk


def test_a_key_that_the_host_planted_opens_nothing(make_world: Any) -> None:
    """Volumes are the host's: model keys are wrapped only to a key that was made in the agent's memory."""
    world = make_world()
    folder = world.paths.receipts
    planted = X25519PrivateKey.generate()
    for name in ("hpke.key", "hpke"):
        (folder / name).write_bytes(planted.private_bytes_raw())
    made = keys.domain_keys(folder)
    assert made.hpke_public != planted.public_key().public_bytes_raw()
    assert made.hpke_public != keys.domain_keys(folder).hpke_public
    assert all(made.hpke.private_bytes_raw() != path.read_bytes() for path in folder.iterdir() if path.is_file())


def test_the_claimed_identity_comes_from_the_downward_api(make_world: Any) -> None:
    world = make_world()
    assert world.pod.claimed.to_json_dict() == {
        "podUid": "u-1",
        "podName": "pod-1",
        "namespace": "pool",
        "workerName": "w",
        "nodeName": "",
    }


@pytest.mark.parametrize("text", [None, "", "x", "H4sIAAAAAAAA"])
def test_initdata_that_cannot_be_read(make_world: Any, text: str | None) -> None:
    world = make_world()
    file = world.paths.podinfo / "initdata"
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with pytest.raises(ChrysalisError) as caught:
        podinfo.read(world.paths.podinfo)
    assert caught.value.reason in ("InitdataMissing", "InitdataMalformed")
