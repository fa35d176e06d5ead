"""The owner's envelope that an AttestationPolicy file carries, for whoever must keep the signed bytes."""

from __future__ import annotations

import yaml
from pydantic import ValidationError

from chrysalis.api.policy import Envelope
from chrysalis.attestation import policy_yaml
from chrysalis.attestation.policy_file import MAX_POLICY_BYTES
from chrysalis.attestation.reasons import AttestationError, AttestationReason


def read_envelope(text: bytes) -> Envelope | None:
    """The envelope in a policy's file; None where nobody signed it.  Its signature is not checked here.

    Takes what `policy_file.read_policy` takes (which compares envelope and readable copy), and a bare envelope in JSON.
    Raises AttestationError (PolicyUnreadable).
    """
    try:
        if len(text) > MAX_POLICY_BYTES:
            raise ValueError(f"over {MAX_POLICY_BYTES} bytes")
        document = policy_yaml.load(text)
        if not isinstance(document, dict):
            raise ValueError("not one YAML or JSON object")
        if "payloadType" in document:
            return Envelope.model_validate(document)
        spec = document.get("spec", document)
        found = spec.get("envelope") if isinstance(spec, dict) else None
        return None if found is None else Envelope.model_validate(found)
    except (yaml.YAMLError, ValidationError, ValueError, RecursionError) as error:
        raise AttestationError(AttestationReason.POLICY_UNREADABLE, "the policy's envelope cannot be read", str(error)[:1024]) from error
