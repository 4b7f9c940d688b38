// The hub's own state, asked for as long as somebody looks.

import { send } from "/session.js";

const EVERY = 2_000; // ms

/** Calls with the state and the one before; or why there is none. Returns what asks at once. */
export function watch(onState, onFailure) {
  let before;
  const ask = async () => {
    if (document.hidden) return;
    try {
      const response = await send("/v1/status", { signal: AbortSignal.timeout(EVERY) });
      if (response.status === 401 || response.status === 403) {
        before = undefined;
        return onFailure("the token does not show it");
      }
      const now = await response.json();
      // A hub that has started anew counts from nothing.
      onState(now, before && now.read >= before.read ? before : undefined);
      before = now;
    } catch {
      before = undefined;
      onFailure("it cannot be reached");
    }
  };
  ask();
  setInterval(ask, EVERY);
  return ask;
}
