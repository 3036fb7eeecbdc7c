"""The HTTP interface: routes under ``/v1`` and ``/v2``, what surrounds every request, and the form of errors."""
