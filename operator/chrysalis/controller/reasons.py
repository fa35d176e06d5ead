"""The words that the controller writes into conditions, Events and metrics."""

from __future__ import annotations

from enum import StrEnum

from chrysalis.errors import ChrysalisError


class ControllerReason(StrEnum):
    """Stable words; refusals of evidence and of wallets keep the words of those who refused."""

    # why a worker cannot be started
    SPEC_INVALID = "SpecInvalid"
    CHILD_NAME_TAKEN = "ChildNameTaken"
    POLICY_NOT_FOUND = "PolicyNotFound"
    POLICY_INVALID = "PolicyInvalid"
    BROKER_UNREACHABLE = "BrokerUnreachable"
    BROKER_PIN_MISMATCH = "BrokerPinMismatch"
    # what stands between a pod and Ready
    BYPASS_DETECTED = "BypassDetected"
    IDENTITY_CONFLICT = "IdentityConflict"
    REPLICA_FAILURE = "ReplicaFailure"
    GUEST_REFUSED_CONTAINER = "GuestRefusedContainer"
    WAITING_FOR_EVIDENCE = "WaitingForEvidence"
    WAITING_FOR_KEY = "WaitingForKey"
    WAITING_FOR_GATE = "WaitingForGate"
    WAITING_FOR_SERVER = "WaitingForServer"
    WAITING_FOR_PODS = "WaitingForPods"
    RESULT_EXPIRED = "ResultExpired"
    RESULT_REVOKED = "ResultRevoked"
    # what is well
    EVIDENCE_ACCEPTED = "EvidenceAccepted"
    KEY_RELEASED = "KeyReleased"
    SERVING = "Serving"
    SCALED_TO_ZERO = "ScaledToZero"
    PROGRESSING = "Progressing"
    STEADY = "Steady"
    GATE_OPENED = "GateOpened"
    # policies and accounts
    POLICY_SIGNED = "PolicySigned"
    POLICY_UNSIGNED = "PolicyUnsigned"
    POLICY_USABLE = "PolicyUsable"
    POLICY_HAS_WARNINGS = "PolicyHasWarnings"
    POLICY_UNUSABLE = "PolicyUnusable"
    ENVELOPE_INVALID = "EnvelopeInvalid"
    ENVELOPE_DIFFERS = "EnvelopeDiffers"
    SETTLED = "Settled"
    ACCOUNT_NOT_READY = "AccountNotReady"
    # the process itself
    SETTINGS_INVALID = "SettingsInvalid"
    KUBERNETES_REFUSED = "KubernetesRefused"
    KUBERNETES_UNREACHABLE = "KubernetesUnreachable"
    NOT_LEADER = "NotLeader"


class ControllerError(ChrysalisError):
    """The controller cannot do what it should."""
