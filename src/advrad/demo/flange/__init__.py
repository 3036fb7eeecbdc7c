"""Images of a synthetic product, a flange, with and without defects."""
