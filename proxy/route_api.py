"""`GET /route/explain/{request_id}`, `POST /route/dry-run`: why a request went where it went, or would go."""

from typing import Any

from aiohttp import web

from .admin_answers import json_answer
from .body import BodyError, RequestBody
from .hub import Hub
from .intake import view_of
from .routing.courses import Course
from .routing.decision_log import explain, explain_decision
from .routing.view import RequestView


class RouteApi:
    """Handlers of one proxy."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/route/explain/{request_id:.+}", self._explain)
        app.router.add_post("/route/dry-run", self._dry_run)

    async def _explain(self, request: web.Request) -> web.Response:
        record = self._hub.log.find(request.match_info["request_id"])
        if record is None:
            raise web.HTTPNotFound
        return json_answer(explain(record))

    async def _dry_run(self, request: web.Request) -> web.Response:
        """Decide on the completion that the body asks for, and send it nowhere."""
        try:
            view = self._view(RequestBody(await request.read()))
        except BodyError as error:
            answer = error.error
            return web.Response(status=answer.status, body=answer.body(), content_type="application/json")
        courses = self._hub.courses
        report = self._would(courses.of(view.model), view)
        if courses.shadow is not None:
            report["shadow"] = self._would(courses.shadow, view)
        return json_answer(report)

    def _view(self, body: RequestBody) -> RequestView:
        guess = self._hub.config.output_tokens_guess
        return view_of(body, self._hub.router.fleet, "dry-run", output_tokens_guess=guess)

    def _would(self, course: Course, view: RequestView) -> dict[str, Any]:
        asked = view.anew()
        decision = course.policy.decide(asked, self._hub.router.fleet, self._hub.loop.time())
        if decision is None:
            return {"policy_version": course.version, "decode": None, "candidates": []}
        return explain_decision(decision, course.version)
