"""A real Vault for tests: built from its Go module, kept in the cache, in memory and on loopback while a test runs."""
