"""NVIDIA GPU and NVSwitch evidence: reading, genuineness, reference values, appraisal.  Pure, like all of attestation."""
