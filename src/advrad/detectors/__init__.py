"""Detectors: the interface, wrappers for foreign models, and AdvRAD itself."""
