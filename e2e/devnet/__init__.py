"""A local TON network for development and tests: real blocks, proofs and liteservers, the real TVM; no validators.

Kept honest by fixed byte vectors and by pytoniq's own proof checks.  Never part of what is installed.
"""
