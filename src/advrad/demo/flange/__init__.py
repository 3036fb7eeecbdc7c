"""Rendered images of a synthetic product, a flange, with and without defects."""
