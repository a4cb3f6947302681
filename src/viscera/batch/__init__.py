"""Thousands of CTs: a ledger with an entry for every case, leases on cases, and any number of worker processes."""
