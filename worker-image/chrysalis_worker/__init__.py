"""What runs inside a worker's trust domain: the agent with its gateway, and Triton's supervisor.

This module imports nothing: the supervisor runs under Triton's own interpreter, which has only the standard library.
"""
