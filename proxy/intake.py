"""From a request's body to what the routing may know of it. No I/O."""

from .body import BodyError, RequestBody
from .errors import ApiError, model_not_found, unavailable
from .routing.fleet import Fleet
from .routing.view import RequestView


def view_of(
    body: RequestBody, fleet: Fleet, request_id: str, *, output_tokens_guess: int, session: bytes = b""
) -> RequestView:
    """Return what policies may know of a request. Raises `BodyError` for one that cannot be served."""
    return RequestView(
        request_id=request_id,
        model=_known_model(body.model(), fleet.models),
        prompt=body.prompt(),
        prompt_tokens=body.prompt_tokens(),
        output_tokens=body.output_tokens(output_tokens_guess),
        answers=body.answers(),
        session=session,
        decode_only=body.decode_only(),
    )


def _known_model(wanted: str | None, models: frozenset[str]) -> str:
    if wanted is None and len(models) == 1:
        return next(iter(models))
    if wanted in models:
        return wanted
    if not models:
        raise BodyError(unavailable("no worker has come up yet"))
    if wanted is None:
        message = f"model is missing; served are: {', '.join(sorted(models))}"
        raise BodyError(ApiError(status=400, message=message, param="model", code="model_missing"))
    raise BodyError(model_not_found(wanted))
