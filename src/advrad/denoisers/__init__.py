"""Denoisers: networks that remove noise of a known level from images."""
