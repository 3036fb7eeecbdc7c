"""Models of anomalib as baselines, on a backbone whose weights need no download."""
