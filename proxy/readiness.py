"""What `/ready`, `/fleet` and `/v1/models` say of a fleet. No I/O."""

from dataclasses import asdict
from typing import Any

from .routing.courses import Courses
from .routing.fleet import Fleet, Worker, WorkerState
from .routing.router import Router


def is_ready(fleet: Fleet) -> bool:
    """Whether requests can be served: a decode worker is ready, and every ready pair has shaken hands."""
    decode = any(worker.decodes and worker.in_rotation for worker in fleet.workers.values())
    return decode and not fleet.unshaken()


def is_complete(fleet: Fleet) -> bool:
    """Whether every listed worker is ready, and every pair has shaken hands."""
    return is_ready(fleet) and all(w.state is WorkerState.READY for w in fleet.workers.values())


def ready_report(fleet: Fleet, *, draining: bool) -> dict[str, Any]:
    """Return the body of `/ready`."""
    return {
        "ready": is_ready(fleet) and not draining,
        "complete": is_complete(fleet),
        "draining": draining,
        "workers": [_standing(worker) for worker in fleet.workers.values()],
        "unshaken": [[prefill.name, decode.name] for prefill, decode in fleet.unshaken()],
    }


def policies_report(courses: Courses, problems: list[str]) -> dict[str, Any]:
    """Return the policies in force, and what is wrong with files that would change them."""
    default, shadow = courses.default, courses.shadow
    models = {place.model: course for place, course in courses.in_force() if place.model is not None}
    return {
        "policy": default.source,
        "policy_version": default.version,
        "model_policies": {model: course.version for model, course in models.items()},
        "shadow_policy_version": shadow.version if shadow is not None else None,
        "shadow_problem": courses.shadow_counts.problem,
        "policy_problems": problems,
    }


def fleet_report(
    router: Router, policies: dict[str, Any], now: float, urls: dict[str, str]
) -> dict[str, Any]:
    """Return the body of `/fleet`."""
    ledger = router.ledger
    held = ledger.outstanding_tokens()
    workers = router.fleet.workers.values()
    return policies | {
        "workers": [
            _standing(worker)
            | {
                "url": urls[worker.name],
                "in_state_s": round(now - worker.since, 3),
                "models": sorted(worker.sighting.models),
                "incarnation": worker.sighting.incarnation or None,
                "max_model_len": worker.sighting.max_model_len,
                "captured_batch_sizes": worker.sighting.captured_batch_sizes,
                "lockstep_group": worker.sighting.lockstep_group,
                "told": None if worker.sighting.load is None else asdict(worker.sighting.load),
                "prefill": {"requests": worker.prefill_requests, "tokens": worker.prefill_tokens},
                "decode": {"requests": worker.decode_requests, "tokens": worker.decode_tokens},
                "handover_tokens": held[worker.name],
                "failures_in_a_row": worker.failures,
                "cooling_s": round(max(worker.cooling_until - now, 0.0), 3),
            }
            for worker in workers
        ],
        "pairs": [
            {"prefill": p.name, "decode": d.name}
            for p in workers
            for d in workers
            if p is not d and p.prefills and d.decodes and router.fleet.may_pair(p, d)
        ],
        "handovers": {state.value: count for state, count in ledger.counts().items()},
    }


def models_report(fleet: Fleet, started_at: int) -> dict[str, Any]:
    """Return the body of `/v1/models`: every model that a worker serves or served."""
    return {
        "object": "list",
        "data": [
            {
                "id": model,
                "object": "model",
                "created": started_at,
                "owned_by": "baton",
                "max_model_len": _shortest(fleet, model),
            }
            for model in sorted(fleet.models)
        ],
    }


def _shortest(fleet: Fleet, model: str) -> int | None:
    sightings = [worker.sighting for worker in fleet.workers.values()]
    lengths = [seen.max_model_len for seen in sightings if model in seen.models]
    return min((length for length in lengths if length is not None), default=None)


def _standing(worker: Worker) -> dict[str, Any]:
    return {
        "name": worker.name,
        "role": worker.role.value,
        "kind": worker.kind.value,
        "state": "draining" if worker.draining else worker.state.value,
        "reason": worker.reason or None,
    }
