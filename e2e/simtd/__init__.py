"""Simulated TDX hardware: everything here stands where real hardware and a Kata guest stand, and protects nothing."""
