"""HTML pages that need nothing else, from the templates of this package."""

from __future__ import annotations

from functools import partial

from advrad.utils.formatting import number, percent

NONE = "\N{EN DASH}"


def page(template: str, **values: object) -> str:
    """Fill in a template; every text is escaped.

    Args:
        template: its file in ``templates``.
        values: that it names; one that is missing is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("advrad.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = partial(number, form=".4g", missing=NONE)
    environment.filters["percent"] = partial(percent, missing=NONE)
    return environment.get_template(template).render(values)
