"""A small PCCS for tests: real or synthetic collateral, and every way to answer badly."""
