"""What is fuzzed: every parser of bytes that a stranger may have made.

A target's `build` runs in the process that fuzzes, with its modules instrumented; it returns the call and the inputs to start
from.  The call may end in a ChrysalisError and in nothing else: what else a parser's documented interface allows (a pydantic
ValidationError, which the HTTP edge answers with 422) the call itself catches.
"""

from __future__ import annotations

from tests.fuzz import collateral, documents, evidence, gpus
from tests.fuzz.gpu_answers import gpu_answers
from tests.fuzz.stapled_documents import stapled_document
from tests.fuzz.target import Target

TARGETS = (
    Target("quote", evidence.quote, ("chrysalis.attestation",)),
    Target("quote-file", evidence.quote_file, ("chrysalis.attestation",)),
    Target("event-log-file", evidence.event_log_file, ("chrysalis.attestation",)),
    Target("appraisal", evidence.appraisal, ("chrysalis.attestation",)),
    Target("collateral", collateral.collateral, ("chrysalis.attestation",), 32 * 1024),
    Target("collateral-file", collateral.collateral_file, ("chrysalis.attestation",), 32 * 1024),
    Target("certificates", collateral.certificates, ("chrysalis.attestation",)),
    Target("der", collateral.der, ("chrysalis.attestation",)),
    Target("event-log", evidence.event_log, ("chrysalis.attestation",)),
    Target("ra-tls", evidence.ra_tls, ("chrysalis.attestation", "cbor2")),
    Target("claims-buffer", evidence.claims, ("chrysalis.attestation", "cbor2"), 2048),
    Target("initdata", documents.initdata, ("chrysalis.api", "tomllib")),
    Target("annotation", documents.annotation, ("chrysalis.api",)),
    Target("policy", documents.policy, ("chrysalis.attestation.policy_file", "yaml")),
    Target("envelope", documents.envelope, ("chrysalis.wire",)),
    Target("tokens", documents.tokens, ("chrysalis.receipts", "chrysalis.wire")),
    Target("ear", documents.ear, ("chrysalis.wire", "jwt")),
    Target("recalls", documents.recalls, ("chrysalis.wire", "chrysalis.receipts")),
    Target("anchor", documents.anchor, ("chrysalis.broker.anchors", "chrysalis.receipts")),
    Target("archive", documents.archive, ("chrysalis.sealing",)),
    Target("package", documents.package, ("chrysalis.sealing",)),
    Target("receipts", documents.receipts, ("chrysalis.receipts",)),
    Target("messages", documents.messages, ("chrysalis.wire", "chrysalis.api")),
    Target("bundle", documents.bundle, ("chrysalis.wire",)),
    Target("pccs", collateral.pccs, ("chrysalis.broker.pccs",)),
    Target("gpu-report", gpus.gpu_report, ("chrysalis.attestation.gpu",)),
    Target("gpu-evidence", gpus.gpu_evidence, ("chrysalis.attestation.gpu",)),
    Target("gpu-chain", gpus.gpu_chain, ("chrysalis.attestation.gpu",)),
    Target("gpu-der", gpus.gpu_der, ("chrysalis.attestation.gpu",)),
    Target("nras", gpus.nras, ("chrysalis.attestation.gpu",)),
    Target("gpu-answers", gpu_answers, ("chrysalis.wire.gpu", "chrysalis.wire.gpu_services", "chrysalis.attestation.gpu")),
    Target("ocsp", gpus.ocsp, ("chrysalis.attestation.gpu",)),
    Target("peer-certificate", documents.peer_certificate, ("chrysalis.client", "chrysalis.wire", "chrysalis.attestation")),
    Target("stapled-document", stapled_document, ("chrysalis.client", "chrysalis.wire"), 128 * 1024),
    Target("fetched-document", collateral.collateral_document, ("chrysalis.attestation",)),
    Target("rim", gpus.rim, ("chrysalis.attestation.gpu",), 64 * 1024),
)


def named(name: str) -> Target:
    """The target of this name; raises KeyError."""
    return {target.name: target for target in TARGETS}[name]
