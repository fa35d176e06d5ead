"""Every byte of a quote changed in turn, random cuts and splices: refused, or shown not to change the verdict.

A byte outside of what any signature covers may change without a refusal only if the whole verdict stays the same.  The
seed is printed; SEED repeats it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chrysalis.attestation import genuineness
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.quote import parse, read
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from chrysalis.attestation.verdict import Reason, Verdict
from chrysalis.clock import from_unix
from e2e.simtd.pki import SimulatedPlatform
from tests.stopwatch import at_most

pytestmark = pytest.mark.slow

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
SEED = int(os.environ.get("SEED") or "20261101")
SPLICES = 300
SLOWEST_SECONDS = 1.0
Judge = Callable[[bytes], Verdict]


def sweep(quote: bytes, judge: Judge, name: str, end: int | None = None) -> Counter[str]:
    """Change each byte (up to `end`) in turn; counts the reasons, and `unchanged` for accepted quotes with the same verdict."""
    generator = random.Random(SEED)
    good = judge(quote)
    assert good.accepted
    found: Counter[str] = Counter()
    count = len(quote) if end is None else end
    for position in range(count):
        bent = bytearray(quote)
        bent[position] ^= generator.randrange(1, 256)
        with at_most(SLOWEST_SECONDS):
            verdict = judge(bytes(bent))
        if verdict.accepted:
            assert verdict == good, f"byte {position} of {name} changes the verdict and is not refused (SEED={SEED})"
            found["unchanged"] += 1
        else:
            assert verdict.reasons[0].reason != AttestationReason.VERIFICATION_FAILED, (position, verdict.reasons[0].detail)
            found[str(verdict.reasons[0].reason)] += 1
    assert sum(found.values()) == count
    refused = count - found["unchanged"]
    print(f"\n{name}: {refused} of {count} changed bytes refused, {found['unchanged']} change nothing (SEED={SEED}): {dict(found)}")
    return found


def judging(collateral: Collateral, at: datetime, roots: list[bytes]) -> Judge:
    """The whole way of a file: read, parse, appraise."""

    def judge(data: bytes) -> Verdict:
        try:
            raw = read(data)
        except AttestationError as error:
            return Verdict.refused(Reason.from_error(error))
        return appraise(quote=raw, collateral=collateral, policy=None, at=at, roots=roots)

    return judge


@pytest.fixture(scope="module")
def simulated(platform: SimulatedPlatform) -> Judge:
    return judging(Collateral.from_json(platform.collateral(AT)), AT, [platform.root_der])


@pytest.mark.parametrize(("version", "end"), [(4, None), (5, 1400)])  # behind the enclave's report both are the same
def test_every_byte_of_a_synthetic_quote(platform: SimulatedPlatform, simulated: Judge, version: int, end: int | None) -> None:
    quote = platform.quote(bytes(range(64)), version=version)
    found = sweep(quote, simulated, f"synthetic quote, version {version}", end)
    assert found["SignatureInvalid"] > 584  # all of the header and the report that no earlier check reads
    assert found["unchanged"] <= quote.count(b"\n")  # line ends of the certificates' PEM, and nothing else


@pytest.mark.parametrize("padding", [1, 3000])
def test_no_byte_of_the_padding_may_be_anything_but_zero(
    platform: SimulatedPlatform, simulated: Judge, reasons: Callable[[Verdict], list[str]], padding: int
) -> None:
    quote = platform.quote()
    assert simulated(quote + bytes(padding)).accepted
    for position in {0, padding // 2, padding - 1}:
        tail = bytearray(padding)
        tail[position] = 1
        assert reasons(simulated(quote + bytes(tail))) == ["QuoteTrailingData"]


@pytest.mark.vectors
@pytest.mark.parametrize(
    ("quote", "bundle"),
    [("dcap-qvl/tdx_quote", "qvl-b0c0-2025-06"), ("go-tdx-guest/quote_v5_sample.dat", "qvl-90c0-2026-02")],
    ids=["v4", "v5"],
)
def test_every_byte_of_a_real_quote(vectors: Path, quote: str, bundle: str) -> None:
    raw = parse(read((vectors / quote).read_bytes())).raw
    stated = {"qvl-b0c0-2025-06": 1751624191, "qvl-90c0-2026-02": 1772707803}
    collateral = Collateral.from_json((vectors / "collateral" / f"{bundle}.json").read_bytes())
    found = sweep(raw, judging(collateral, from_unix(stated[bundle]), []), quote)
    assert found["unchanged"] <= raw.count(b"\n") + 1  # and a NUL behind the certificates


def splices(one: bytes, other: bytes, count: int) -> list[bytes]:
    """Seeded cuts, insertions, repetitions, exchanges and mixtures of two quotes."""
    generator = random.Random(SEED)
    made = []
    for _ in range(count):
        kind = generator.randrange(5)
        start, end = sorted(generator.randrange(len(one) + 1) for _ in range(2))
        if kind == 0:
            made.append(one[:start])
        elif kind == 1:
            made.append(one[:start] + one[end:])
        elif kind == 2:
            made.append(one[:start] + generator.randbytes(generator.randrange(1, 64)) + one[start:])
        elif kind == 3:
            made.append(one[:end] + one[start:])
        else:
            made.append(one[:start] + other[start:end] + one[end:])
    return made


def test_cuts_and_splices_of_quotes(platform: SimulatedPlatform, simulated: Judge) -> None:
    other = SimulatedPlatform.create().quote(bytes(range(64)))
    one = platform.quote(bytes(range(64)))
    good = simulated(one)
    found: Counter[str] = Counter()
    for data in splices(one, other, SPLICES):
        with at_most(SLOWEST_SECONDS):
            verdict = simulated(data)
        assert not verdict.accepted or verdict == good, f"SEED={SEED}"
        found["accepted" if verdict.accepted else str(verdict.reasons[0].reason)] += 1
    print(f"\n{SPLICES} cuts and splices (SEED={SEED}): {dict(found)}")
    assert found["accepted"] <= SPLICES // 10  # a splice of nothing, or of what both quotes have in common


def test_parts_of_two_platforms_never_make_one(platform: SimulatedPlatform, simulated: Judge) -> None:
    """Report, signature, enclave and certificates of two genuine platforms, mixed in every way."""
    other = SimulatedPlatform.create()
    mine, theirs = platform.quote(bytes(64)), other.quote(b"\1" * 64)
    cuts = [0, 48, 632, 636, 700, 764, 770, 1154, 1218, 1252, 1258, min(len(mine), len(theirs))]
    for first, last in itertools.pairwise(cuts):
        mixed = mine[:first] + theirs[first:last] + mine[last:]
        assert mixed == mine or not simulated(mixed).accepted, (first, last)


DOCUMENTS: list[str] = ["tcb_info", "qe_identity", "root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_bytes_of_the_collateral(platform: SimulatedPlatform, name: str) -> None:
    """Each document changed at a few hundred places: refused, since all of its bytes are signed."""
    generator = random.Random(SEED)
    document: dict[str, Any] = json.loads(platform.collateral(AT))
    quote, text = platform.quote(), document[name]
    positions = generator.sample(range(len(text)), min(len(text), 120))
    for position in positions:
        alphabet = "0123456789abcdef" if name.endswith(("crl", "signature")) else '0123456789abcxyz{}[]:,"'
        letter = generator.choice([c for c in alphabet if c != text[position].lower()])
        bent = json.dumps(document | {name: text[:position] + letter + text[position + 1 :]})
        try:
            collateral = Collateral.from_json(bent)
        except AttestationError:
            continue
        verdict = appraise(quote=quote, collateral=collateral, policy=None, at=AT, roots=[platform.root_der])
        assert not verdict.accepted, (name, position, letter)


@settings(max_examples=60)
@given(
    name=st.sampled_from(["root_ca_crl", "pck_crl"]),
    position=st.integers(0, 4000),
    junk=st.binary(min_size=1, max_size=8),
    cut=st.booleans(),
)
def test_any_revocation_list_is_read_or_refused(bundle: Collateral, name: str, position: int, junk: bytes, cut: bool) -> None:
    der = getattr(bundle, name)
    place = position % len(der)
    bent = dataclasses.replace(bundle, **{name: der[:place] + junk + (b"" if cut else der[place + len(junk) :])})
    assert outcome(bent) in ("", "CollateralMalformed")


@settings(max_examples=60)
@given(name=st.sampled_from(["tcb_info_issuer_chain", "qe_identity_issuer_chain"]), position=st.integers(0, 4000), junk=st.text(max_size=8))
def test_any_issuer_chain_is_read_or_refused(bundle: Collateral, name: str, position: int, junk: str) -> None:
    pem = getattr(bundle, name)
    place = position % len(pem)
    assert outcome(dataclasses.replace(bundle, **{name: pem[:place] + junk + pem[place + len(junk) :]})) in ("", "CollateralMalformed")


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
MEMBERS = ["id", "version", "issueDate", "nextUpdate", "fmspc", "pceId", "tcbEvaluationDataNumber", "tcbLevels"]


@settings(max_examples=100)
@given(name=st.sampled_from(["tcb_info", "qe_identity"]), member=st.sampled_from(MEMBERS), value=VALUES)
def test_any_document_is_read_or_refused(bundle: Collateral, name: str, member: str, value: Any) -> None:
    text = json.dumps(json.loads(getattr(bundle, name)) | {member: value})
    assert outcome(dataclasses.replace(bundle, **{name: text})) in ("", "CollateralMalformed")


@pytest.fixture(scope="module")
def bundle(platform: SimulatedPlatform) -> Collateral:
    return Collateral.from_json(platform.collateral(AT))


def outcome(collateral: Collateral) -> str:
    """Read everything that an appraisal reads of collateral; the reason of a refusal."""
    with at_most(SLOWEST_SECONDS):
        try:
            genuineness.authority(collateral, AT)
            genuineness.expired(collateral, AT)
            assert collateral.expiries
        except AttestationError as error:
            return str(error.reason)
    return ""
