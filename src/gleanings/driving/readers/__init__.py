"""Readers of recorded scenes, one module a format: bytes -> RawScene."""
