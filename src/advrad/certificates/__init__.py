"""Certificates: proofs that no perturbation within a radius changes a score or verdict beyond a bound."""
