"""The real Triton on the host, without containers: for tests of the worker and for measurements."""
