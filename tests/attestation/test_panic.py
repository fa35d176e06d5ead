"""A panic of the library, which Rust hands on as a BaseException, refuses one quote and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import dcap_qvl
import pytest

from chrysalis.attestation import genuineness, quote
from chrysalis.attestation.verdict import Verdict


class PanicException(BaseException):
    """By its name, as pyo3's."""


def _panics(*_: Any) -> NoReturn:
    raise PanicException("index out of bounds")


def test_a_panic_is_a_refusal(
    judge: Callable[..., Verdict], reasons: Callable[[Verdict], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge().accepted
    genuineness.forget()
    for name in ("QuoteVerifier", "verify", "verify_with_root_ca"):
        monkeypatch.setattr(dcap_qvl, name, _panics)
    quote._platform.cache_clear()
    monkeypatch.setattr(dcap_qvl, "parse_pck_extension_from_pem", _panics)
    assert "VerificationFailed" in reasons(judge())
    quote._platform.cache_clear()
