"""NVIDIA's attestation service and an OCSP responder for tests: simulated, with keys of their own, and every way to answer badly."""
