"""Image folders, records, loading, splits and synthetic defects."""
