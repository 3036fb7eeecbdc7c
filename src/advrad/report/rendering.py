"""HTML pages from the templates of this package. A page is one file that loads nothing else."""

from __future__ import annotations

from functools import partial

from advrad.utils.formatting import number, percent, radius_text

MISSING = "\N{EN DASH}"
"""Shown where a value was not measured."""


def page(template: str, **values: object) -> str:
    """Fill in a template; all texts are escaped.

    Args:
        template: File name in ``templates``.
        values: Values that the template uses.

    Returns:
        The page as HTML.

    Raises:
        jinja2.UndefinedError: The template uses a value that is missing.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("advrad.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = partial(number, form=".4g", missing=MISSING)
    environment.filters["radius"] = radius_text
    environment.filters["percent"] = partial(percent, missing=MISSING)
    return environment.get_template(template).render(values)
