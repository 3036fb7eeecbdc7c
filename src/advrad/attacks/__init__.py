"""Attacks on anomaly detectors, and the runner that measures what they leave."""
