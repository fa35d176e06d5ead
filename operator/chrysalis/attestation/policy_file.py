"""Reading a policy that a person wrote: an AttestationPolicy resource, or its bare spec, as YAML or JSON."""

from __future__ import annotations

import base64
import binascii
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from chrysalis.api.base import Model
from chrysalis.api.names import API_VERSION, KIND_POLICY
from chrysalis.api.policy import AttestationPolicyCarrierSpec, AttestationPolicySpec, Envelope, SignedPolicy
from chrysalis.attestation import policy_yaml
from chrysalis.attestation.reasons import AttestationError, AttestationReason

MAX_POLICY_BYTES = 1024 * 1024
ModelT = TypeVar("ModelT", bound=Model)


def read_policy(text: bytes) -> AttestationPolicySpec:
    """The policy in a file; raises AttestationError (PolicyUnreadable).

    Where the resource carries an envelope, its payload must say the same as the readable copy beside it: a person who
    reads the one must not get the other judged.  The envelope's signature is the broker's business, not checked here.
    """
    if len(text) > MAX_POLICY_BYTES:
        raise _unreadable(f"the policy has {len(text)} bytes; at most {MAX_POLICY_BYTES} are read")
    try:
        document = policy_yaml.load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _unreadable("the policy is neither YAML nor JSON", str(error)) from error
    if not isinstance(document, dict):
        raise _unreadable("the policy is not one YAML or JSON object")
    if "spec" in document:
        if document.get("apiVersion") != API_VERSION or document.get("kind") != KIND_POLICY:
            found = " ".join(str(document.get(name))[:64] for name in ("apiVersion", "kind"))
            raise _unreadable(f"the resource is {found}, not {API_VERSION} {KIND_POLICY}")
        document = document["spec"]
    carrier = _validate(AttestationPolicyCarrierSpec, document)
    spec = AttestationPolicySpec.model_validate({name: getattr(carrier, name) for name in AttestationPolicySpec.model_fields})
    if carrier.envelope is not None and _signed(carrier.envelope) != spec:
        raise _unreadable("the signed policy in `envelope` differs from the readable copy beside it")
    return spec


def _signed(envelope: Envelope) -> AttestationPolicySpec:
    try:
        return SignedPolicy.of_payload(base64.b64decode(envelope.payload, validate=True)).spec
    except (ValueError, binascii.Error) as error:
        raise _unreadable("the payload of the policy's envelope cannot be read", str(error)) from error


def _validate(model: type[ModelT], document: Any) -> ModelT:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = [f"{'.'.join(str(part) for part in item['loc']) or 'spec'}: {item['msg']}" for item in error.errors()[:8]]
        raise _unreadable(f"the policy is not valid: {problems[0]}", "; ".join(problems)) from error


def _unreadable(message: str, detail: str = "") -> AttestationError:
    return AttestationError(AttestationReason.POLICY_UNREADABLE, message, detail)
