"""The TVM, started once for all tests of the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.devnet.tvm import Tvm


@pytest.fixture(scope="session")
def tvm() -> Iterator[Tvm]:
    with Tvm() as running:
        yield running
