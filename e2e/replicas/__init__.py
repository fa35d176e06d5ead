"""Scenarios of the broker in a cluster: two replicas over PostgreSQL, a PCCS that is down, a policy that is tightened."""
