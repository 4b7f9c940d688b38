// The hub's own state, asked for as long as somebody looks.

const EVERY = 2_000; // ms

/** Calls with the state and the one before; or that there is none. */
export function watch(onState, onFailure) {
  let before;
  const ask = async () => {
    if (document.hidden) return;
    try {
      const response = await fetch("/v1/status", { signal: AbortSignal.timeout(EVERY) });
      const now = await response.json();
      // A hub that has started anew counts from nothing.
      onState(now, before && now.read >= before.read ? before : undefined);
      before = now;
    } catch {
      before = undefined;
      onFailure();
    }
  };
  ask();
  setInterval(ask, EVERY);
}
