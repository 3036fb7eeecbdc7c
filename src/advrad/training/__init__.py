"""Training a denoiser on normal images, choosing its score, and setting the threshold."""
