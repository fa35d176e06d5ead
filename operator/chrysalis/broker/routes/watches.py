"""GET /v1/results with `watch` or `wait`: results as they change, as server-sent events or by long poll."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from chrysalis.broker.callers import Caller
from chrysalis.broker.deps import Deps
from chrysalis.broker.messages import answer, malformed, parameters, whole_number
from chrysalis.broker.watch import MAX_WAIT_SECONDS, Page, Place, Watching
from chrysalis.wire.changes import ResultChanges

PARAMETERS = frozenset({"namespace", "worker", "podUID", "verdict", "after", "watch", "wait", "limit"})
VERDICTS = ("", "Accepted", "Refused")
MAX_PAGE = 1000
MAX_NUMBER = (1 << 63) - 1
LAST_EVENT = "last-event-id"


class Watches:
    """The watchers of one process."""

    def __init__(self, deps: Deps) -> None:
        self._results = deps.results
        self._watching = Watching(deps.store, lambda: deps.ending.begun)

    @staticmethod
    def wanted(request: Request) -> bool:
        """Whether a request for results asks to watch."""
        return "watch" in request.query_params or "wait" in request.query_params

    async def answer(self, request: Request, caller: Caller) -> Response:
        """The next changes that the caller may see, or a stream of them.

        after: a change's number, from `next`, an event's id or ResultList.change; absent: from now on.  A browser's
        Last-Event-ID stands for it.  Raises BrokerError: MessageMalformed, TooManyWatchers.
        """
        query = parameters(request, PARAMETERS)
        if query.get("verdict", "") not in VERDICTS:
            raise malformed("the query", "verdict must be Accepted or Refused")
        if query.get("watch", "true") != "true" or ("watch" in query and "wait" in query):
            raise malformed("the query", "give watch=true or wait=SECONDS")
        seconds = whole_number(query.get("wait", "0"), "wait", 0, MAX_WAIT_SECONDS)
        limit = whole_number(query.get("limit", "100"), "limit", 1, MAX_PAGE)
        start = query.get("after") or request.headers.get(LAST_EVENT, "")
        after = whole_number(start, "after", 0, MAX_NUMBER) if start else await run_in_threadpool(self._watching.newest)
        page: Page = partial(
            self._results.changes,
            caller,
            namespace=query.get("namespace", ""),
            worker=query.get("worker", ""),
            pod_uid=query.get("podUID", ""),
            verdict=query.get("verdict", ""),
            limit=limit,
        )
        place = self._watching.admit(
            caller.name, tenant=caller.tenant, reader=caller.everything
        )  # now, so that a watcher too many gets a refusal and not the beginning of a stream
        if "wait" in query:
            try:
                found, following = await self._watching.wait(page, after, seconds)
            finally:
                place.give_back()
            return answer(ResultChanges(results=found, next=following))
        return Stream(self._watching.stream(page, after), place)


class Stream(StreamingResponse):
    """Server-sent events that hold a watcher's place until the response ends, however it ends."""

    def __init__(self, events: AsyncIterator[str], place: Place) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._place.give_back()
