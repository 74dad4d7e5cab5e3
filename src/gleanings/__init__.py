"""Better decisions from experience you already have: logs, or a model's own samples."""

__version__ = "0.1.0"
