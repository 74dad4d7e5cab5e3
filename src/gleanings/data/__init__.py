"""File formats: readers that treat every file as untrusted."""
