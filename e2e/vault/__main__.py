"""`python -m e2e.vault`: build the Vault that tests use, where the cache lacks it, and print its path."""

from __future__ import annotations

from e2e.vault.server import program

print(program())
