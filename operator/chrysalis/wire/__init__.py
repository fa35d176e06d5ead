"""Messages that two parts exchange, and the HTTP clients that carry them.  Never judges.

Imports attestation, receipts, sealing, api and what is below.  Every message is versioned (`schemaVersion`); unknown
versions and unknown fields are refused.
"""
