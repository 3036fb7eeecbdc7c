"""The HTML pages. They hold names and rights; everything else comes from the HTTP interface, with the same rights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from advrad.serving.access import COOKIE, Access, Principal, Role, address_of
from advrad.serving.errors import StoreUnavailable, TooManyGuesses
from advrad.serving.page.sign_ins import SignInLog
from advrad.serving.page.static_files import static_response, static_root

_ROLE_WORDS = {Role.INSPECT: "inspect", Role.REVIEW: "inspect and review", Role.ADMIN: "do everything"}

_WRONG = "This key is not known. Check it, or ask whoever runs the service for one."
_AWAY = "Nobody can sign in now, because the history cannot be reached. Try again in a moment."


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("advrad.serving.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class _Pages:
    """Renders the templates for one service.

    Args:
        access: Tells who asks.
        product_names: Gives the names of the products that are served now.
    """

    def __init__(self, access: Access, product_names: Callable[[], Sequence[str]]) -> None:
        self._access = access
        self._product_names = product_names

    def show(self, request: Request, template: str, needed: Role = Role.INSPECT, **values: object) -> Response:
        """A page for whoever may see it; else the way to sign in, or why not.

        Args:
            request: The request.
            template: Name of the template, without its ending.
            needed: Role that the page needs.
            values: Values that the template uses besides those of the frame.
        """
        person = self._access.identity(request)
        if person is None:
            asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/sign-in?{urlencode({'next': asked})}", status_code=303)
        if not person.role.covers(needed):
            return self._message(request, person, 403, "Not for this key", f"This page needs a key that may {needed}.")
        products = list(self._product_names())
        wanted = request.query_params.get("product") or (products[0] if products else "")
        if wanted not in products:
            text = f"This service has no product named {wanted!r}. It has: {', '.join(products) or 'none'}."
            return self._message(request, person, 404, "No such product", text)
        return self._render(request, person, template, wanted, products, values)

    def open_page(self, request: Request, template: str, status: int = 200, **values: object) -> Response:
        """A page that needs no key.

        Args:
            request: The request.
            template: Name of the template, without its ending.
            status: HTTP status.
            values: Values that the template uses besides those of the frame.
        """
        return self._render(request, None, template, "", [], values, status)

    def _message(self, request: Request, person: Principal, status: int, heading: str, text: str) -> Response:
        products = list(self._product_names())
        first = products[0] if products else ""
        return self._render(request, person, "message", first, products, {"heading": heading, "text": text}, status)

    def _render(
        self,
        request: Request,
        person: Principal | None,
        template: str,
        product: str,
        products: Sequence[str],
        values: dict[str, Any],
        status: int = 200,
    ) -> Response:
        may = {role.value: person is not None and person.role.covers(role) for role in Role}
        pages = [("/", "Inspect"), ("/history", "History"), ("/review", "Review"), ("/product", "Product")]
        text = (
            _environment()
            .get_template(f"{template}.html.j2")
            .render(
                facts={
                    "product": product,
                    "products": products,
                    "who": person.name if person else "",
                    "keys_on": self._access.keys_on,
                    "may": may,
                },
                role_words=_ROLE_WORDS[person.role] if person else "",
                pages=[entry for entry in pages if entry[0] != "/review" or may["review"]],
                page=request.url.path,
                here=urlencode({"product": product}),
                static=static_root(),
                **values,
            )
        )
        return HTMLResponse(text, status_code=status, headers={"Cache-Control": "no-store"})


def _inner(path: str) -> str:
    """A path on this service to go to after signing in; the first page for anything else, such as another host."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"


def page_routes(access: Access, product_names: Callable[[], Sequence[str]], log: SignInLog) -> APIRouter:
    """Make the routes of the page.

    Args:
        access: Tells who asks, and opens and ends sessions.
        product_names: Gives the names of the products that are served now; the first is shown where none is chosen.
        log: Takes down who signs in and out.

    Returns:
        The routes ``/``, ``/history``, ``/history/{id}``, ``/review``, ``/product``, ``/sign-in``, ``/sign-out`` and
        ``/static/...``; none of them is in the OpenAPI description.
    """
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
    pages = _Pages(access, product_names)

    @router.get("/")
    def inspect(request: Request) -> Response:
        return pages.show(request, "inspect")

    @router.get("/history")
    def history(request: Request) -> Response:
        choices = [("", "all"), *((name, name) for name in product_names())]
        return pages.show(request, "history", products=choices, given=dict(request.query_params))

    @router.get("/history/{inspection_id}")
    def detail(request: Request, inspection_id: str) -> Response:
        return pages.show(request, "detail", inspection_id=inspection_id)

    @router.get("/review")
    def review(request: Request) -> Response:
        return pages.show(request, "review", Role.REVIEW)

    @router.get("/product")
    def product(request: Request) -> Response:
        return pages.show(request, "product")

    @router.get("/sign-in")
    def sign_in_page(request: Request, next: str = "/") -> Response:
        return pages.open_page(request, "sign-in", next=_inner(next), problem="")

    @router.post("/sign-in")
    def sign_in(request: Request, key: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "/") -> Response:
        problem, status, headers = _WRONG, 401, {}
        try:
            person = access.sign_in(request, key)
            if person is not None:
                log.signed_in(person.name, address_of(request))
                response = RedirectResponse(_inner(next), status_code=303)
                options: dict[str, Any] = access.cookie_options(request)
                response.set_cookie(COOKIE, person.token, **options)
                return response
            if access.keys_on:
                log.refused(address_of(request))
        except TooManyGuesses as error:
            problem, status = f"Too many wrong keys came from here. Wait {error.retry_after_s} seconds.", 429
            headers = {"Retry-After": str(error.retry_after_s)}
        except StoreUnavailable:
            problem, status, headers = _AWAY, 503, {"Retry-After": "1"}
        page = pages.open_page(request, "sign-in", status, next=_inner(next), problem=problem)
        page.headers.update(headers)
        return page

    @router.post("/sign-out")
    def sign_out(request: Request) -> Response:
        person = access.identity(request)
        access.sign_out(request)
        if person is not None and person.by_cookie:
            log.signed_out(person.name, address_of(request))
        response = RedirectResponse("/sign-in", status_code=303)
        response.delete_cookie(COOKIE, path="/")
        return response

    @router.get("/static/{path:path}")
    def static(path: str) -> Response:
        return static_response(path)

    return router
