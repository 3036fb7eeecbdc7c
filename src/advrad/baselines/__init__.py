"""The field's other systems, fitted to normal images like ours and judged by the same code.

Each room holds one system, or one family, with its sources. :mod:`advrad.baselines.registry` lists them all.
"""
