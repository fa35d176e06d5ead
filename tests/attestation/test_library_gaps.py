"""What dcap-qvl leaves to its caller, gap by gap: evidence that the library accepts and that is refused for that gap alone.

Each test shows three things: the library itself is content, our verdict has exactly the reason of the gap, and the twin
without it is accepted.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest

import chrysalis
from chrysalis.api.initdata import mrconfigid
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.verdict import Verdict
from chrysalis.clock import unix
from e2e.simtd import pki
from e2e.simtd.pki import CollateralShape, SimulatedPlatform, Tampering

Appraise = Callable[..., Verdict]
Reasons = Callable[[Verdict], list[str]]
AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def library_accepts(platform: SimulatedPlatform, quote: bytes, collateral: Collateral, at: datetime = AT) -> str:
    """The library's own status for this evidence; raises ValueError where it refuses."""
    return str(dcap_qvl.verify_with_root_ca(quote, collateral.qvl, platform.root_der, unix(at)).status)


def of(platform: SimulatedPlatform, shape: CollateralShape | None = None) -> Collateral:
    return Collateral.from_json(platform.collateral(AT, shape or CollateralShape()))


@pytest.fixture
def quote(platform: SimulatedPlatform, initdata: bytes) -> Callable[..., bytes]:
    return lambda **fields: platform.quote(bytes(range(64)), mrconfigid=mrconfigid(initdata), **fields)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("OutOfDate", "TcbOutOfDate"),
        ("OutOfDateConfigurationNeeded", "TcbOutOfDate"),
        ("ConfigurationNeeded", "TcbConfigurationNeeded"),
        ("ConfigurationAndSWHardeningNeeded", "TcbConfigurationNeeded"),
        ("SWHardeningNeeded", "TcbSwHardeningNeeded"),
        ("UpToDate", ""),
    ],
)
def test_success_at_a_poor_tcb_status(
    platform: SimulatedPlatform, judge: Appraise, reasons: Reasons, quote: Callable[..., bytes], status: str, reason: str
) -> None:
    collateral = of(platform, CollateralShape(status=status))
    assert library_accepts(platform, quote(), collateral) == status
    assert reasons(judge(collateral=collateral)) == ([reason] if reason else [])


def of_two_levels(platform: SimulatedPlatform) -> Collateral:
    """Collateral that lists a level for components 3 and module 6, and an older one for components 2 and module 4."""

    def edit(info: dict[str, Any], identity: dict[str, Any]) -> None:
        [level], [module] = info["tcbLevels"], info["tdxModuleIdentities"]
        late = {"tcbDate": "2023-01-01T00:00:00Z", "tcbStatus": "OutOfDate", "advisoryIDs": ["INTEL-SA-3"]}
        components = [{"svn": svn} for svn in (5, 0, 3, *([0] * 13))]
        info["tcbLevels"] = [level | {"tcb": level["tcb"] | {"tdxtcbcomponents": components}}, level | late]
        [current] = module["tcbLevels"]
        module["tcbLevels"] = [current | {"tcb": {"isvsvn": 6}}, current | late | {"tcb": {"isvsvn": 4}}]

    return of(platform, CollateralShape(tampering=Tampering(edit=edit)))


def svn(module: int, component: int) -> bytes:
    return bytes([module, 1, component]) + bytes(13)


LEVELS = [  # at the domain's start, now, and what both are together
    (svn(6, 3), svn(6, 3), "UpToDate"),
    (svn(6, 3), svn(6, 2), "OutOfDate"),
    (svn(6, 3), svn(4, 3), "OutOfDate"),
    (svn(6, 2), svn(6, 3), "TDRelaunchAdvised"),
    (svn(4, 3), svn(6, 3), "TDRelaunchAdvised"),
    (svn(6, 2), svn(6, 2), "OutOfDate"),
]


@pytest.mark.parametrize(("start", "now", "together"), LEVELS)
def test_a_platform_that_is_now_below_the_level_of_the_domains_start(
    platform: SimulatedPlatform, reasons: Reasons, start: bytes, now: bytes, together: str
) -> None:
    quote, collateral = platform.quote(version=5, tee_tcb_svn=start, tee_tcb_svn_2=now), of_two_levels(platform)
    library_accepts(platform, quote, collateral)
    verdict = appraise(quote=quote, collateral=collateral, policy=None, at=AT, roots=[platform.root_der])
    assert verdict.tcb_status == together
    expected = {"UpToDate": [], "OutOfDate": ["TcbOutOfDate"], "TDRelaunchAdvised": ["TcbRelaunchAdvised"]}
    assert reasons(verdict) == expected[together]
    late = together != "UpToDate"
    assert verdict.advisory_ids == (["INTEL-SA-3"] if late else [])
    assert verdict.claims is not None
    assert verdict.claims.tcb_date.year == (2023 if late else 2025)
    assert (library_accepts(platform, quote, collateral) == together) == (start[0] <= now[0] and start[2] <= now[2])  # the gap


def test_tcb_info_signed_by_a_leaked_platform_key(
    platform: SimulatedPlatform, judge: Appraise, reasons: Reasons, quote: Callable[..., bytes]
) -> None:
    forged = of(platform, CollateralShape(tampering=Tampering(signer_is_pck=True)))
    assert library_accepts(platform, quote(), forged) == "UpToDate"
    assert reasons(judge(collateral=forged)) == ["CollateralSignerInvalid"]
    assert judge(collateral=of(platform)).accepted


@pytest.mark.parametrize("document", ["tcb_info", "qe_identity"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_tcb_signer_appointed_by_an_authority_for_platforms(
    platform: SimulatedPlatform, judge: Appraise, reasons: Reasons, quote: Callable[..., bytes], document: str, whole: bool
) -> None:
    """The same name and key, certified by the PCK authority in place of the root; its chain carries the root or leaves it out."""
    ca, root = platform.certificates["ca"], platform.certificates["root"]
    appointed = pki.certificate(pki.TCB_SIGNER_NAME, platform.keys["tcb"], pki.CA_NAME, platform.keys["ca"])
    chain = {f"{document}_issuer_chain": pki.pem(appointed, ca, root) if whole else pki.pem(appointed, ca)}
    bent = dataclasses.replace(of(platform), **chain)
    assert library_accepts(platform, quote(), bent) == "UpToDate"
    assert reasons(judge(collateral=bent)) == ["CollateralSignerInvalid"]
    signer = platform.certificates["tcb"]
    for good in (pki.pem(signer, root), pki.pem(signer)):
        assert judge(collateral=dataclasses.replace(of(platform), **{f"{document}_issuer_chain": good})).accepted


def test_tcb_info_of_another_pce(platform: SimulatedPlatform, judge: Appraise, reasons: Reasons, quote: Callable[..., bytes]) -> None:
    other = of(platform, CollateralShape(pce_id=b"\0\1"))
    assert library_accepts(platform, quote(), other) == "UpToDate"
    assert reasons(judge(collateral=other)) == ["CollateralMismatch"]
    assert judge(collateral=of(platform, CollateralShape(pce_id=bytes(2)))).accepted


def test_a_revocation_list_from_the_future(
    platform: SimulatedPlatform, judge: Appraise, reasons: Reasons, quote: Callable[..., bytes]
) -> None:
    future = of(platform, CollateralShape(crl_issue=AT + timedelta(seconds=1)))
    assert library_accepts(platform, quote(), future) == "UpToDate"
    assert set(reasons(judge(collateral=future))) == {"CollateralNotYetValid"}
    assert judge(collateral=of(platform, CollateralShape(crl_issue=AT))).accepted


def test_bytes_behind_the_quote(platform: SimulatedPlatform, judge: Appraise, reasons: Reasons, quote: Callable[..., bytes]) -> None:
    for trailing in (b"\1", bytes(100) + b"x", b"\xff" * 64):
        assert library_accepts(platform, quote() + trailing, of(platform)) == "UpToDate"
        assert reasons(judge(quote=quote() + trailing)) == ["QuoteTrailingData"]
    assert judge(quote=quote() + bytes(8000 - len(quote()))).accepted  # as one cloud pads
    assert judge(quote=quote()).accepted


def test_padding_is_bounded(judge: Appraise, reasons: Reasons, quote: Callable[..., bytes]) -> None:
    assert judge(quote=quote() + bytes(64 * 1024 - len(quote()))).accepted
    assert reasons(judge(quote=quote() + bytes(64 * 1024 - len(quote()) + 1))) == ["QuoteTooLarge"]


def test_a_certificate_chain_in_the_collateral(platform: SimulatedPlatform, judge: Appraise, quote: Callable[..., bytes]) -> None:
    other = SimulatedPlatform.create()
    document = json.loads(platform.collateral(AT)) | {"pck_certificate_chain": other.pck_chain}
    overridden = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(document))
    with pytest.raises(ValueError, match="InvalidSignatureForPublicKey"):  # it overrides the quote's own, so a genuine quote fails
        dcap_qvl.verify_with_root_ca(quote(), overridden, platform.root_der, unix(AT))
    assert judge(collateral=Collateral.from_json(json.dumps(document))).accepted


ATTRIBUTES = [
    ("pks", "0000005000000000"),
    ("kl", "0000009000000000"),
    ("lass", "0000001800000000"),
    ("perfmon", "0000001000000080"),
]


@pytest.mark.parametrize(("bit", "attributes"), ATTRIBUTES, ids=[row[0] for row in ATTRIBUTES])
def test_attribute_bits_that_the_library_accepts(
    platform: SimulatedPlatform,
    judge: Appraise,
    reasons: Reasons,
    quote: Callable[..., bytes],
    policy_document: dict[str, Any],
    bit: str,
    attributes: str,
) -> None:
    bent = quote(td_attributes=bytes.fromhex(attributes))
    assert library_accepts(platform, bent, of(platform)) == "UpToDate"
    assert reasons(judge(quote=bent)) == ["TdAttributesNotAllowed"]
    policy_document["tdx"]["tdAttributes"]["value"] = attributes
    assert judge(quote=bent).accepted


def test_xfam_is_not_the_librarys_matter(
    platform: SimulatedPlatform, judge: Appraise, reasons: Reasons, quote: Callable[..., bytes], policy_document: dict[str, Any]
) -> None:
    bent = quote(xfam=bytes.fromhex("e703060000000000"))
    assert library_accepts(platform, bent, of(platform)) == "UpToDate"
    assert reasons(judge(quote=bent)) == ["XfamNotAllowed"]
    policy_document["tdx"]["xfam"]["value"] = "e703060000000000"
    assert judge(quote=bent).accepted


MEASURED: list[tuple[dict[str, Any], str]] = [
    ({"mrtd": b"\1" * 48}, "MeasurementNotAllowed"),
    ({"mrseam": b"\1" * 48}, "MeasurementNotAllowed"),
    ({"mrowner": b"\1" * 48}, "MeasurementNotAllowed"),
    ({"mrownerconfig": b"\1" * 48}, "MeasurementNotAllowed"),
    ({"rtmrs": (b"\1" * 48, *([bytes(48)] * 3))}, "MeasurementNotAllowed"),
]


@pytest.mark.parametrize(("fields", "reason"), MEASURED, ids=[next(iter(row[0])) for row in MEASURED])
def test_measurements_are_ours_to_judge(
    platform: SimulatedPlatform,
    judge: Appraise,
    reasons: Reasons,
    quote: Callable[..., bytes],
    policy_document: dict[str, Any],
    fields: dict[str, Any],
    reason: str,
) -> None:
    policy_document["eventLog"] = {"required": False}
    bent = quote(**fields)
    assert library_accepts(platform, bent, of(platform)) == "UpToDate"
    assert reasons(judge(quote=bent)) == [reason]
    assert judge(quote=quote()).accepted


def test_mrconfigid_is_ours_to_judge(platform: SimulatedPlatform, judge: Appraise, reasons: Reasons, quote: Callable[..., bytes]) -> None:
    bent = platform.quote(bytes(range(64)), mrconfigid=b"\1" * 48)
    assert library_accepts(platform, bent, of(platform)) == "UpToDate"
    assert reasons(judge(quote=bent)) == ["InitdataMismatch"]
    assert judge(quote=quote()).accepted


def test_report_data_is_ours_to_judge(platform: SimulatedPlatform, judge: Appraise, reasons: Reasons, quote: Callable[..., bytes]) -> None:
    assert library_accepts(platform, quote(), of(platform)) == "UpToDate"
    assert reasons(judge(report_data=bytes(64))) == ["ReportDataMismatch"]
    assert judge(report_data=bytes(range(64))).accepted


def test_platforms_that_the_librarys_strict_policy_refuses(
    platform: SimulatedPlatform, judge: Appraise, reasons: Reasons, quote: Callable[..., bytes], policy_document: dict[str, Any]
) -> None:
    """Every real TDX quote seen is of a dynamic platform with SMT: ours are separate fields."""
    verifier = dcap_qvl.QuoteVerifier(platform.root_der)
    with pytest.raises(ValueError, match="not allowed by policy"):
        verifier.verify_with_policy(quote(), of(platform).qvl, unix(AT), dcap_qvl.QuotePolicy.strict(unix(AT)))
    assert judge().accepted
    policy_document["tdx"]["tcb"]["allowDynamicPlatform"] = False
    assert reasons(judge()) == ["DynamicPlatformNotAllowed"]
    policy_document["tdx"]["tcb"] |= {"allowDynamicPlatform": True, "allowSmt": False}
    assert reasons(judge()) == ["SmtNotAllowed"]


def test_collateral_is_never_fetched_by_the_library() -> None:
    """Its get_collateral* ask a third party's PCCS and wait 180 s: no module of ours names them."""
    source = Path(chrysalis.__file__).parent
    for path in source.rglob("*.py"):
        assert not re.search(r"dcap_qvl\.get_collateral|import get_collateral", path.read_text()), path


def test_advisories_can_be_an_allow_list(
    platform: SimulatedPlatform, judge: Appraise, reasons: Reasons, quote: Callable[..., bytes], policy_document: dict[str, Any]
) -> None:
    collateral = of(platform, CollateralShape(status="SWHardeningNeeded", advisories=["INTEL-SA-99999"]))
    policy_document["tdx"]["tcb"] |= {"allowedStatuses": ["SWHardeningNeeded"], "advisories": {"allow": ["INTEL-SA-00001"]}}
    assert library_accepts(platform, quote(), collateral) == "SWHardeningNeeded"
    assert reasons(judge(collateral=collateral)) == ["AdvisoryNotAllowed"]
    policy_document["tdx"]["tcb"]["advisories"] = {"deny": ["INTEL-SA-99999"]}
    assert reasons(judge(collateral=collateral)) == ["AdvisoryDenied"]
    policy_document["tdx"]["tcb"]["advisories"] = {"allow": ["INTEL-SA-99999"]}
    assert judge(collateral=collateral).accepted


def test_json_ends_inclusively_and_a_list_exclusively(platform: SimulatedPlatform, judge: Appraise, reasons: Reasons) -> None:
    def at_its_end(info: dict[str, Any], identity: dict[str, Any]) -> None:
        info["nextUpdate"] = "2026-11-01T12:00:00Z"

    assert judge(collateral=of(platform, CollateralShape(tampering=Tampering(edit=at_its_end)))).accepted
    assert reasons(judge(collateral=of(platform, CollateralShape(crl_next=AT)))) == ["CollateralExpired"]
    assert judge(collateral=of(platform, CollateralShape(crl_next=AT + timedelta(seconds=1)))).accepted


def test_one_added_space_breaks_the_signature(platform: SimulatedPlatform, judge: Appraise, reasons: Reasons) -> None:
    good = of(platform)
    bent = dataclasses.replace(good, tcb_info=good.tcb_info.replace('{"id"', '{ "id"', 1))
    assert bent.tcb_info != good.tcb_info
    assert reasons(judge(collateral=bent)) == ["CollateralSignatureInvalid"]
    assert Collateral.from_json(good.to_json()).tcb_info == good.tcb_info  # kept byte for byte through our own form
    assert judge(collateral=Collateral.from_json(good.to_json())).accepted


def test_without_a_policy_up_to_date_is_the_only_status(platform: SimulatedPlatform, reasons: Reasons) -> None:
    given = {"quote": platform.quote(), "policy": None, "at": AT, "roots": [platform.root_der]}
    assert appraise(collateral=of(platform), **given).accepted
    assert reasons(appraise(collateral=of(platform, CollateralShape(status="OutOfDate")), **given)) == ["TcbOutOfDate"]


def test_a_root_of_ones_own_is_never_hardware(platform: SimulatedPlatform, judge: Appraise, policy_document: dict[str, Any]) -> None:
    assert judge().evidence_class == "Simulated"
    assert base64.b64decode(policy_document["trustRoot"]["der"]) == platform.root_der
