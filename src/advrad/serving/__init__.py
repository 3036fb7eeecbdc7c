"""The service at the line: HTTP, a watched folder, a history of inspections, and the page that a person looks at.

Needs the extra ``serve``. ``advrad serve`` and ``advrad watch`` start it.
"""
