// What the dashboards share: what there was, then what happens, and how the connection is.

import { connect } from "/bellwether.js";
import { request, session } from "/session.js";
import "/components/connection-badge.js";
import "/components/gap-notice.js";

const LONG = 10 * 60_000; // ms: whoever was away for longer does not catch up, but begins anew
const EVERY = 10_000; // ms between two looks at the clock, which goes on while a computer sleeps

/**
 * Follows topics, after the last so many events of some: `past` is `{topic: how many}`. Each
 * event is told once, to the handler of its name and to that of `*`. After a gap, or a long time
 * away, all begins anew as on a page that was just opened: `forget` throws away what it knows.
 */
export function live(topics, past, { forget = () => {}, ...options } = {}) {
  const handlers = new Map();
  const badge = document.querySelector("connection-badge");
  const tell = (event) => {
    handlers.get(event.name)?.(event);
    handlers.get("*")?.(event);
  };
  let connection;
  let hasFailed = false;
  const begin = async () => {
    // Without a hub there is no past either, but there may be a future, and then a past again.
    const { events, after } = await remember(past).catch(() => ({ events: [] }));
    const isToRepeat = !after && !hasFailed;
    hasFailed = !after;
    events.forEach(tell);
    if (events.length) badge.see(events.at(-1).at);
    connection = connect(topics, { after, ...session, ...options });
    connection.on("*", tell);
    connection.addEventListener("gap", () => {
      const notice = document.querySelector("gap-notice");
      notice.tell("Some of what happened while this page was away is not kept any more.");
      beginAnew();
    });
    connection.addEventListener("status", ({ detail: { state } }) => {
      if (isToRepeat && state === "live") beginAnew();
    });
    badge.connection = connection;
  };
  // Else all that is kept would come, which can be the events of a week.
  const beginAnew = () => {
    badge.connection = undefined;
    connection?.close();
    connection = undefined;
    for (const part of document.querySelectorAll("metric-card, live-chart, activity-feed")) {
      part.clear();
    }
    forget();
    begin();
  };
  let followed = Date.now();
  const look = () => {
    if (document.hidden && options.pause !== false) return; // it has let go
    if (connection && Date.now() - followed > LONG) beginAnew();
    followed = Date.now();
  };
  document.addEventListener("visibilitychange", look);
  setInterval(look, EVERY);
  begin();
  return {
    on: (name, handler) => handlers.set(name, handler),
    get status() {
      return connection?.status;
    },
  };
}

/** The last events of each topic, up to one place in the stream: the stream goes on from there. */
async function remember(past) {
  const pages = await Promise.all(Object.entries(past).map(read));
  const after = pages[0].next;
  const events = pages
    .flatMap(({ events }) => events)
    .filter(({ id }) => number(id) <= number(after))
    .sort((one, other) => number(one.id) - number(other.id))
    .map(({ event: name, at, ...rest }) => ({ ...rest, name, at: new Date(at) }));
  return { events, after };
}

async function read([topic, last]) {
  const query = new URLSearchParams({ topic, last, limit: last });
  const response = await request(`/v1/events?${query}`);
  if (!response.ok) throw new Error(`${response.status}`);
  return response.json();
}

/** A cursor is `<epoch>-<number>`. */
function number(cursor) {
  return Number(cursor.split("-")[1]);
}
