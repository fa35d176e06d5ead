"""The real cluster, the simulated hardware, the TON devnet and the scenarios that run on them."""
