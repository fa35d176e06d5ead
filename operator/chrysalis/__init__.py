"""Chrysalis: confidential inference on Kubernetes, attested before admission and paid on TON."""

__version__ = "0.1.0"
