"""The settler: collects receipts, keeps the ledger, commits epochs to TON, publishes what auditors need.

A bookkeeper with bounded power: it can neither invent a client's consent (tickets) nor withdraw funds.  Imports wire, chain and
what is below; pure parts are `judging`, `epochs` and `recovery`.
"""
