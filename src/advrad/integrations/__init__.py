"""AdvRAD inside other libraries. :mod:`advrad.integrations.anomalib` makes it a model of anomalib."""
