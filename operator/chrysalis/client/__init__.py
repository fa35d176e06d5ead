"""The client that verifies: evidence first, then tickets, answers and receipts.  Never sends a byte before it has verified."""
