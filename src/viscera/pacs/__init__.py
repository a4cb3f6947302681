"""A listener and a client for picture archives."""
