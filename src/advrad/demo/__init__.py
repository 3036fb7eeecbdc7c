"""The demonstration: a synthetic product, trained, evaluated and reported on."""
