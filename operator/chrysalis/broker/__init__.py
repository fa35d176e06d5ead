"""The broker: challenge, evidence, appraisal, result, key release.  Releases nothing to evidence that it did not appraise.

Never reads a custom resource's status; never gives a stored key back.  Imports wire, attestation, receipts, sealing, api and
below, and no Kubernetes client (TokenReview is one HTTP request).
"""
