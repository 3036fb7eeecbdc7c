"""Prediction, evaluation and heat maps with a finished detector."""
