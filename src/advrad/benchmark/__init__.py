"""Many detectors on many products: fit, attack, certify, and tabulate."""
