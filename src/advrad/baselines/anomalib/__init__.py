"""Baselines that train models of anomalib."""
