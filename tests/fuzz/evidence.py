"""The fuzz targets of evidence: quotes, event logs and what binds them to a session, alone and in an appraisal."""

from __future__ import annotations

import base64
import gzip
import json

from tests.fuzz.target import Built, split


def quote() -> Built:
    from chrysalis.attestation import domain, quote, verdict
    from tests.fuzz.material import MATERIAL, vector_files

    def call(data: bytes) -> None:
        parsed = quote.parse(data)
        verdict.measured(parsed)
        domain.judge(parsed)
        _ = parsed.fmspc

    return call, [*MATERIAL.quotes, *vector_files("go-tdx-guest/*quote*.dat", "dcap-qvl/*quote")]


def quote_file() -> Built:
    from chrysalis.attestation.quote_file import read
    from tests.fuzz.material import MATERIAL

    good = MATERIAL.quotes[0]
    packed = base64.b64encode(good)
    forms = [good, good.hex().encode(), b"0x" + good.hex().encode(), packed, json.dumps({"quote": packed.decode()}).encode()]
    forms += [json.dumps({"evidence": json.dumps({"body": packed.decode()})}).encode(), gzip.compress(good)]
    return read, [*forms, json.dumps({"quote": good.hex()}).encode()]


def event_log_file() -> Built:
    from chrysalis.attestation.eventlog_file import read
    from tests.fuzz.material import MATERIAL

    good = MATERIAL.platform.event_log.rstrip(b"\xff")
    packed = base64.b64encode(good)
    forms = [good, good.hex().encode(), packed, gzip.compress(good), json.dumps({"cc_eventlog": packed.decode()}).encode()]
    return read, [*forms, json.dumps([json.dumps({"log": good.hex()}), list(good)]).encode()]


def appraisal() -> Built:
    from chrysalis.attestation.appraisal import appraise
    from chrysalis.attestation.quote import parse
    from tests.fuzz.material import AT, MATERIAL

    signed = {parse(good).signed for good in MATERIAL.quotes}

    def call(data: bytes) -> None:
        quote, log = split(data)
        verdict = appraise(
            quote=quote,
            collateral=MATERIAL.collateral,
            policy=None,
            at=AT,
            roots=[MATERIAL.platform.root_der],
            event_log=log or None,
        )
        # The kept corpus holds quotes that the platform signed in another run: what is signed is the same, the signature is not.
        assert not verdict.accepted or parse(quote).signed in signed, "a quote that nobody signed was accepted"

    return call, [MATERIAL.quotes[0], MATERIAL.quotes[1] + b"\0--\0" + MATERIAL.platform.event_log]


def event_log() -> Built:
    from chrysalis.attestation import event_data, eventlog
    from tests.fuzz.material import MATERIAL, vector_files

    def call(data: bytes) -> None:
        events = eventlog.parse(data)
        eventlog.replay(events)
        for event in events:
            event_data.measured(event)
            event_data.texts(event)
        eventlog.separators(events)

    return call, [MATERIAL.platform.event_log, *(data[:12_000] for data in vector_files("*/ccel_data.*"))]


def ra_tls() -> Built:
    from chrysalis.attestation import ratls
    from tests.fuzz.material import MATERIAL

    def call(data: bytes) -> None:
        quote, claims = ratls.parse_extension(data)
        assert ratls.extension(quote, claims) == data

    return call, [ratls.extension(MATERIAL.quotes[0], MATERIAL.bound.claims_buffer), ratls.extension(b"quote", b"claims")]


def claims() -> Built:
    from chrysalis.attestation import binding
    from tests.fuzz.material import MATERIAL

    def call(data: bytes) -> None:
        claims = binding.parse_claims(data)
        assert binding.claims_buffer(claims.spki_sha256, claims.transcript) == data

    return call, [MATERIAL.bound.claims_buffer]
