"""From a request's body to what the routing may know of it. No I/O."""

from .body import BodyError, RequestBody, prompt_tokens_in
from .errors import ApiError, model_not_found, unavailable
from .hub import Hub
from .request import ClientRequest, LegHead
from .routing.fleet import Fleet
from .routing.life import RequestLife
from .routing.ticket import Ticket
from .routing.view import RequestView
from .terms import read_terms


def life_of(hub: Hub, request: ClientRequest, body: RequestBody, head: LegHead) -> RequestLife:
    """Return the life of a request that is to be admitted. Raises `BodyError`."""
    view = view_of(
        body,
        hub.router.fleet,
        head.wanted_id,
        output_tokens_guess=hub.config.output_tokens_guess,
        session=head.session,
    )
    ticket = Ticket(view, read_terms(request.given, hub.tenants), len(request.body))
    return RequestLife(ticket, hub.router)


def view_of(
    body: RequestBody, fleet: Fleet, request_id: str, *, output_tokens_guess: int, session: bytes = b""
) -> RequestView:
    """Return what policies may know of a request. Raises `BodyError` for one that cannot be served."""
    model, prompt = body.model(), body.prompt()
    return RequestView(
        request_id,
        _known_model(model, fleet.models),
        prompt_tokens_in(prompt),
        body.output_tokens(output_tokens_guess),
        prompt,
        answers=body.answers(),
        session=session,
        decode_only=body.decode_only(),
    )


def _known_model(wanted: str | None, models: frozenset[str]) -> str:
    if wanted is None and len(models) == 1:
        return next(iter(models))
    if wanted is not None and wanted in models:
        return wanted
    if not models:
        raise BodyError(unavailable("no worker has come up yet"))
    if wanted is None:
        message = f"model is missing; served are: {', '.join(sorted(models))}"
        raise BodyError(ApiError(status=400, message=message, param="model", code="model_missing"))
    raise BodyError(model_not_found(wanted))
