"""PyPI `httpx-sse`, and the loop around it that reconnects.

Usage: python httpx_sse_client.py URL; ends with the event "end".
"""

import json
import sys
import time

import httpx
from httpx_sse import connect_sse

url = sys.argv[1]
last_event_id = ""
retry = 1.0


def follow(client: httpx.Client) -> bool:
    """Reads one connection to its end; whether the last event has come."""
    global last_event_id, retry
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    with connect_sse(client, "GET", url, headers=headers) as source:
        source.response.raise_for_status()
        for event in source.iter_sse():
            if event.retry is not None:
                retry = event.retry / 1000
            last_event_id = event.id or last_event_id
            # It also gives blocks without data (`retry:`, `id:`), which a browser
            # does not, as events that are named "message" and empty. JSON never is.
            if not event.data:
                continue
            line = {"id": last_event_id, "name": event.event, "data": event.data}
            print(json.dumps(line), flush=True)
            if event.event == "end":
                return True
    return False


with httpx.Client(trust_env=False, timeout=30) as client:
    while True:
        try:
            if follow(client):
                break
        except httpx.TransportError as error:
            print(f"cut: {error!r}", file=sys.stderr)
        time.sleep(retry)
