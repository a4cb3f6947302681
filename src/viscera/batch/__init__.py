"""Thousands of CTs: a ledger with an entry for every case, leases on cases, and many processes that work on them."""
