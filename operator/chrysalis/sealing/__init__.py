"""Model archives, age packages and HPKE key wrapping.  Never keeps a plaintext key longer than a call.

Imports api, errors and below; no network, no Kubernetes.
"""
