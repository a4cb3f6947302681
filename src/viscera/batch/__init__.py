"""Thousands of CTs: a ledger with an entry for every case, claims on cases, and many processes that work on them."""
