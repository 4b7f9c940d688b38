// Bellwether in the browser: follows events across reconnects, hidden tabs and bad networks.
//
//   import { connect } from "/bellwether.js";
//
//   const orders = connect("shop.orders", { last: 20 });
//   orders.on("placed", ({ data }) => console.log(data));
//   orders.addEventListener("status", () => console.log(orders.status));
//
// One tab of a browser holds the stream and passes on what comes (Web Locks elect it, a
// BroadcastChannel carries it). Every tab keeps a cursor of its own and drops what it has had,
// so whatever becomes of that tab or of the network, nothing is lost or repeated.
//
// The types are in bellwether.d.ts.

const DEFAULTS = {
  hub: "", // where the hub is: of the page's own origin
  last: 0, // begin with the last so many events
  after: undefined, // or after this cursor
  envelope: true, // ask for topic, key and time beside the data
  share: true, // one stream for all tabs; a text keeps apart whoever must not share, such as users
  pause: true, // let go of the stream while the tab is hidden
  token: undefined, // async ({renew}) => the bearer token; none, where a cookie says who asks
  credentials: "same-origin", // as of fetch: "include" sends cookies to a hub of another origin
};

/** All in milliseconds. */
const TIMES = {
  stale: 20_000, // this long without a sign of life: say so. Heartbeats come every 15 s
  silence: 45_000, // this long without one: connect anew
  blocked: 10_000, // not a byte of a stream for so long: look whether plain requests work
  poll: 60_000, // between two requests, where they do and streams do not
  hidden: 10_000, // how long a tab is hidden before it lets go of the stream
  backoff: [1_000, 30_000], // between attempts: at random below a limit, which doubles
  stable: 10_000, // a connection that lasted so long was a good one
  alive: 5_000, // how often the tab with the stream says that it lives
  hung: 20_000, // a tab that has not for so long hangs, and another takes over
};

/** Events kept for tabs that join, at least. */
const KEPT = 256;
/** Events asked for at once when polling. */
const PAGE = 500;

/** Follows topics: patterns such as `orders`, `org.*.alerts`, `shop.>`, or several of them. */
export function connect(topics, options = {}) {
  const times = { ...TIMES, ...options.times };
  return new Connection([topics].flat(), { ...DEFAULTS, ...options, times });
}

/** What a page holds. Dispatches `status` and `gap`; events of the hub go to those of `on`. */
class Connection extends EventTarget {
  #options;
  #stream;
  #tabs;
  #handlers = new Map();
  #status = { state: "connecting", reason: "", since: Date.now() };
  #cursor;
  #recent = []; // the newest events, for tabs that join
  #floor; // the cursor from which on they are complete
  #states = new Map(); // by topic
  #hiding;
  #page = new AbortController(); // ends what listens to the page

  constructor(topics, options) {
    super();
    this.#options = options;
    if (options.after) this.#advance(options.after);
    const query = new URLSearchParams(topics.map((topic) => ["topic", topic]));
    const hub = new URL(options.hub || location.origin).origin;
    this.#stream = new Stream(hub, query, options, (message) => {
      this.#receive(message);
      this.#tabs?.post(message);
    });
    // Whoever has a token says with whom it may share: two tabs can belong to two users.
    const mayShare = options.token ? typeof options.share === "string" : options.share;
    if (mayShare && navigator.locks && window.BroadcastChannel) {
      const { last, envelope, share } = options;
      const name = `bellwether ${hub} ${query} ${last} ${envelope} ${share}`;
      this.#tabs = new Tabs(name, options.times, {
        hello: () => ({ kind: "hello", cursor: this.#cursor }),
        welcome: (cursor) => this.#welcome(cursor),
        receive: (message) => this.#receive(message),
        lead: () => this.#stream.run(this.#cursor),
        yield: () => this.#yield(),
      });
    }
    const on = { signal: this.#page.signal };
    document.addEventListener("visibilitychange", () => this.#show(!document.hidden), on);
    // A page that the browser keeps for the back button must hold nothing, and may come back.
    window.addEventListener("pagehide", () => this.#stop(), on);
    window.addEventListener("pageshow", ({ persisted }) => persisted && this.#start(), on);
    this.#start();
  }

  /** `{ state, reason, since }`: connecting, live, stale, reconnecting or closed, and why. */
  get status() {
    return this.#status;
  }

  /** The position reached: the id of the last event, or of a later heartbeat. */
  get cursor() {
    return this.#cursor;
  }

  /** Calls a handler for events of this name, `*` for all. Returns what stops that. */
  on(name, handler) {
    const handlers = this.#handlers.get(name) ?? new Set();
    this.#handlers.set(name, handlers.add(handler));
    return () => handlers.delete(handler);
  }

  close() {
    this.#page.abort();
    this.#stop();
    this.#receive(status("closed", "closed by the page"));
  }

  #start() {
    this.#tabs?.open();
    if (!document.hidden || !this.#options.pause) this.#compete(true);
  }

  #stop() {
    clearTimeout(this.#hiding);
    this.#compete(false);
    this.#tabs?.close();
  }

  #show(isVisible) {
    clearTimeout(this.#hiding);
    if (isVisible) {
      this.#compete(true);
      this.#stream.hurry();
    } else if (this.#options.pause) {
      this.#hiding = setTimeout(() => this.#compete(false), this.#options.times.hidden);
    }
  }

  /** Wants the stream, or lets go of it. */
  #compete(wants) {
    if (this.#tabs) this.#tabs.compete(wants);
    else if (wants) this.#stream.run(this.#cursor);
    else this.#yield();
  }

  #yield() {
    if (this.#stream.stop()) this.#receive(status("stale", "paused while this tab is hidden"));
  }

  /** What to tell a tab that has come as far as a cursor, or that has none yet. */
  #welcome(cursor) {
    const now = { kind: "welcome", cursor: this.#cursor, status: this.#status };
    if (!cursor) {
      const last = this.#recent.slice(-this.#options.last || Infinity);
      return { ...now, events: [...this.#states.values(), ...last] };
    }
    if (!this.#cursor) return undefined; // it asks again
    const isKept = !isBeyond(this.#floor, cursor);
    if (isKept) return { ...now, events: this.#recent.filter(({ id }) => isBeyond(id, cursor)) };
    // It was away for long. All go back with it, and drop what they have had.
    this.#stream.rewind(cursor);
    return { ...now, cursor, events: [] };
  }

  #receive(message) {
    // What was read with the event at which the page has closed it.
    if (this.#page.signal.aborted && message.kind !== "status") return;
    if (message.kind === "event") this.#take(message.event);
    else if (message.kind === "cursor") this.#advance(message.cursor);
    else if (message.kind === "gap") this.#miss(message.gap);
    else if (message.kind === "status") this.#tell(message.status);
    else if (message.kind === "welcome") {
      message.events.forEach((event) => this.#take(event));
      this.#advance(message.cursor);
      this.#tell(message.status);
    }
  }

  #take(event) {
    if (!event.isRetained) {
      if (!this.#advance(event.id)) return;
      this.#keep(event);
    }
    if (event.isRetained || event.retain === true) {
      this.#states.set(event.topic, { ...event, isRetained: true });
    } else if (event.retain === false) {
      this.#states.delete(event.topic);
    }
    for (const name of [event.name, "*"]) {
      for (const handler of this.#handlers.get(name) ?? []) {
        try {
          handler(event);
        } catch (error) {
          reportError(error);
        }
      }
    }
  }

  #keep(event) {
    const kept = Math.max(KEPT, this.#options.last);
    if (this.#recent.push(event) >= 2 * kept) this.#floor = this.#recent.splice(0, kept).at(-1).id;
  }

  /** Whether this is news. */
  #advance(cursor) {
    if (!cursor || !isBeyond(cursor, this.#cursor)) return false;
    if (epoch(cursor) !== epoch(this.#cursor)) this.#forget(cursor);
    this.#cursor = cursor;
    return true;
  }

  #miss(gap) {
    // Another tab's: this one has had what is gone.
    if (gap.reason === "retention" && !isBeyond(gap.to, this.#cursor)) return;
    this.#forget(gap.to);
    this.#cursor = gap.to;
    this.dispatchEvent(new CustomEvent("gap", { detail: gap }));
  }

  #forget(floor) {
    this.#recent = [];
    this.#floor = floor;
  }

  #tell(status) {
    const { state, reason } = this.#status;
    if (state === "closed" || (state === status.state && reason === status.reason)) return;
    this.#status = status;
    this.dispatchEvent(new CustomEvent("status", { detail: status }));
  }
}

/** The one among the tabs of a browser that holds the stream, and what passes between them. */
class Tabs {
  #name;
  #times;
  #tab;
  #channel;
  #me = crypto.randomUUID();
  #wish; // aborted when this tab does not want the stream any more
  #isLeading = false;
  #hasJoined = false; // what comes before the welcome is in the welcome
  #heard;
  #clock;

  constructor(name, times, tab) {
    this.#name = name;
    this.#times = times;
    this.#tab = tab;
  }

  open() {
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#heard = performance.now();
    this.#clock = setInterval(() => this.#tick(), this.#times.alive);
    this.#join();
  }

  close() {
    clearInterval(this.#clock);
    this.#channel.close();
    this.#channel = undefined;
  }

  /** Wants the stream, now or when the tab that has it goes; or does not. */
  compete(wants) {
    if (!wants) {
      this.#wish?.abort();
      this.#wish = undefined;
      if (this.#isLeading) this.#tab.yield();
    } else if (!this.#wish) {
      this.#request();
    }
  }

  /** Tells the other tabs. */
  post(message) {
    this.#channel?.postMessage({ ...message, from: this.#me });
  }

  #request(steal = false) {
    const wish = (this.#wish = new AbortController());
    const how = steal ? { steal } : { signal: wish.signal };
    navigator.locks
      .request(this.#name, how, () => this.#lead(wish.signal))
      .catch(() => {
        // Either the wish is over, or this tab has hung and another has taken the lock.
        if (wish.signal.aborted) return;
        this.#tab.yield();
        if (this.#wish === wish) this.#request();
      });
  }

  async #lead(wish) {
    if (wish.aborted) return;
    this.#isLeading = true;
    this.post({ kind: "lead" });
    await this.#tab.lead();
    this.#isLeading = false;
    this.#join();
  }

  #hear({ from, to, ...message }) {
    this.#heard = performance.now();
    if (message.kind === "hello") {
      const welcome = this.#isLeading && this.#tab.welcome(message.cursor);
      if (welcome) this.post({ ...welcome, to: from });
    } else if (message.kind === "lead") {
      this.#join();
    } else if (message.kind === "welcome") {
      if (to !== this.#me || this.#isLeading) return;
      this.#hasJoined = true;
      this.#tab.receive(message);
    } else if (this.#hasJoined && !this.#isLeading) {
      this.#tab.receive(message);
    }
  }

  /** Asks for what this tab has not had. Until that has come, nothing else counts. */
  #join() {
    if (this.#isLeading) return;
    this.#hasJoined = false;
    this.post(this.#tab.hello());
  }

  #tick() {
    if (this.#isLeading) return this.post({ kind: "alive" });
    if (!this.#hasJoined) this.#join();
    if (this.#wish && performance.now() - this.#heard > this.#times.hung) {
      this.#heard = performance.now();
      this.#wish.abort();
      this.#request(true);
    }
  }
}

/** The stream: held, watched, and begun anew. Emits messages, also of its state. */
class Stream {
  #hub;
  #query;
  #options;
  #emit;
  #cursor;
  #failures = 0;
  #running; // aborted when nobody wants it any more
  #attempt; // aborted when this connection is to end
  #hasExpired = false; // the hub has said that the token counts no more
  #said;
  #wake = () => {};

  constructor(hub, query, options, emit) {
    this.#hub = hub;
    this.#query = query;
    this.#options = options;
    this.#emit = emit;
  }

  /** Follows from a cursor on until it is stopped, or refused for good. */
  async run(cursor) {
    if (this.#running) return;
    const { signal } = (this.#running = new AbortController());
    const hurry = () => this.hurry();
    window.addEventListener("online", hurry);
    this.#cursor = cursor;
    this.#failures = 0;
    this.#said = undefined;
    this.#say("connecting", "");
    while (!signal.aborted) {
      const began = performance.now();
      const end = await this.#follow(signal);
      if (signal.aborted || end.isFinal) break;
      if (performance.now() - began > this.#options.times.stable) this.#failures = 0;
      if (!end.isRewound) await this.#wait(end.delay ?? this.#backoff(), signal);
    }
    window.removeEventListener("online", hurry);
    if (this.#running?.signal === signal) this.#running = undefined;
  }

  /** Whether there was anything to stop. */
  stop() {
    const running = this.#running;
    this.#running = undefined;
    running?.abort();
    return Boolean(running);
  }

  /** Goes back to an earlier cursor. */
  rewind(cursor) {
    this.#cursor = cursor;
    this.#attempt?.abort(new Rewound());
  }

  /** Tries now what it would have tried later. */
  hurry() {
    this.#wake();
  }

  /** One connection, to its end. Returns what is to follow. */
  async #follow(signal) {
    const { times } = this.#options;
    const attempt = (this.#attempt = new AbortController());
    const stop = () => attempt.abort(new Error("not wanted any more"));
    signal.addEventListener("abort", stop);
    const watchdog = new Watchdog(times, attempt, () =>
      this.#say("stale", `nothing heard for ${Math.round(times.stale / 1000)} s`),
    );
    let retry;
    try {
      const response = await this.#open(attempt.signal);
      for await (const block of blocks(response.body, () => watchdog.hear())) {
        if (attempt.signal.aborted) throw attempt.signal.reason;
        retry = block.retry ?? retry;
        this.#hear(block);
      }
      if (this.#hasExpired) {
        this.#say("reconnecting", "the token has expired");
        return { delay: this.#options.token ? 0 : retry };
      }
      // The hub says when to come back, to each another time.
      this.#say("reconnecting", "the hub has ended the stream");
      return { delay: this.#failures === 0 ? retry : undefined };
    } catch (error) {
      const why = attempt.signal.aborted ? attempt.signal.reason : error;
      if (signal.aborted || why instanceof Rewound) return { isRewound: true };
      if (why instanceof Refused) {
        this.#say("closed", why.message);
        return { isFinal: true };
      }
      if (why instanceof Blocked && (await this.#poll(signal))) {
        return { delay: Math.max(0, times.poll - times.blocked) };
      }
      if (!signal.aborted) this.#say("reconnecting", explain(why));
      return {};
    } finally {
      watchdog.stop();
      signal.removeEventListener("abort", stop);
    }
  }

  async #open(signal) {
    const query = new URLSearchParams(this.#query);
    if (this.#options.last) query.set("last", this.#options.last);
    if (this.#options.envelope) query.set("envelope", "1");
    // In the query and not as a header: that would have to be asked for across origins.
    if (this.#cursor) query.set("last_event_id", this.#cursor);
    const response = await this.#request("/v1/stream", query, "text/event-stream", signal);
    const type = response.headers.get("content-type") ?? "";
    // Somebody on the way has answered in the hub's place.
    if (!type.startsWith("text/event-stream")) throw new Blocked(`not a stream but ${type}`);
    return response;
  }

  /** An answer of status 200. Asks for a new token once if the one it has does not do. */
  async #request(path, query, accept, signal) {
    const { token, credentials } = this.#options;
    const attempts = this.#hasExpired ? [true] : [false, true];
    for (const renew of token ? attempts : [false]) {
      const headers = { accept };
      const bearer = await token?.({ renew });
      if (bearer) headers.authorization = `Bearer ${bearer}`;
      const init = { headers, signal, cache: "no-store", credentials };
      const response = await fetch(`${this.#hub}${path}?${query}`, init);
      if (response.ok) {
        this.#hasExpired = false;
        return response;
      }
      if (response.status === 401 && !renew && token) continue;
      const said = (await response.json().catch(() => undefined))?.error;
      const why = `${response.status}: ${said?.message ?? response.statusText}`;
      // Not what a proxy says for a hub that is away: a page on a wall must outlive that.
      const isFinal = said?.code && response.status < 500 && response.status !== 429;
      throw isFinal ? new Refused(why) : new Error(why);
    }
  }

  #say(state, reason) {
    if (this.#said?.state === state && this.#said.reason === reason) return;
    this.#said = { state, reason };
    this.#emit(status(state, reason));
  }

  #hear({ id, name, data }) {
    if (name === "gap" && id === undefined) {
      const gap = JSON.parse(data);
      this.#cursor = gap.to;
      this.#emit({ kind: "gap", gap });
    } else if (name === "expired" && id === undefined) {
      this.#hasExpired = true;
    } else if (name === "heartbeat") {
      this.#cursor = id;
      this.#emit({ kind: "cursor", cursor: id });
    } else if (data !== undefined) {
      const value = JSON.parse(data);
      const { event: _, ...event } = this.#options.envelope ? value : { id, data: value };
      // A state that is given to everybody who comes has no place in the stream.
      this.#event({ ...event, name, isRetained: id === undefined });
    }
    if (id !== undefined) this.#say("live", "");
  }

  #event(event) {
    if (!event.isRetained) this.#cursor = event.id;
    this.#emit({ kind: "event", event: { ...event, at: event.at && new Date(event.at) } });
  }

  /** Whether plain requests work where streams do not; if so, takes what has come. */
  async #poll(signal) {
    const { times, last } = this.#options;
    const attempt = (this.#attempt = new AbortController());
    try {
      for (let isMore = true; isMore;) {
        const query = new URLSearchParams(this.#query);
        query.set("limit", PAGE);
        if (this.#cursor) query.set("after", this.#cursor);
        else query.set("last", last);
        const limit = AbortSignal.any([signal, attempt.signal, AbortSignal.timeout(times.blocked)]);
        const response = await this.#request("/v1/events", query, "application/json", limit);
        const { events, next, more, gap } = await response.json();
        if (gap) this.#emit({ kind: "gap", gap });
        for (const { event: name, ...event } of events) {
          this.#event({ ...event, name, isRetained: false });
        }
        isMore = more;
        this.#cursor = next;
        this.#emit({ kind: "cursor", cursor: next });
      }
    } catch {
      return false;
    }
    const every = Math.round(times.poll / 1000);
    this.#say("stale", `streams are blocked on the way; asking every ${every} s`);
    return true;
  }

  /** At random below a limit, so that those who were cut off together come back apart. */
  #backoff() {
    const [first, most] = this.#options.times.backoff;
    return Math.random() * Math.min(most, first * 2 ** this.#failures++);
  }

  async #wait(delay, signal) {
    const { promise, resolve } = Promise.withResolvers();
    const timer = setTimeout(resolve, delay);
    signal.addEventListener("abort", resolve);
    this.#wake = resolve;
    await promise;
    clearTimeout(timer);
    signal.removeEventListener("abort", resolve);
  }
}

/** Ends a connection that is silent. By the clock: timers stand still while a computer sleeps. */
class Watchdog {
  #times;
  #attempt;
  #onStale;
  #hasHeard = false;
  #heard = Date.now();
  #interval;

  constructor(times, attempt, onStale) {
    this.#times = times;
    this.#attempt = attempt;
    this.#onStale = onStale;
    const soon = Math.min(times.stale, times.silence, times.blocked) / 4;
    this.#interval = setInterval(() => this.#look(), Math.min(1000, soon));
  }

  hear() {
    this.#hasHeard = true;
    this.#heard = Date.now();
  }

  stop() {
    clearInterval(this.#interval);
  }

  #look() {
    const { stale, silence, blocked } = this.#times;
    const silent = Date.now() - this.#heard;
    if (!this.#hasHeard) {
      if (silent > blocked) this.#attempt.abort(new Blocked("the hub does not answer"));
    } else if (silent > silence) {
      const seconds = Math.round(silence / 1000);
      this.#attempt.abort(new Error(`nothing heard for ${seconds} s`));
    } else if (silent > stale) this.#onStale();
  }
}

/** Not a byte of a stream has come, or something else. */
class Blocked extends Error {}
/** No use in trying again. */
class Refused extends Error {}
/** To begin anew, from elsewhere. */
class Rewound extends Error {}

/** The blocks of a `text/event-stream`: what stands between two empty lines. */
async function* blocks(body, onBytes) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let endsInCr = false;
  let block = { name: "message" };
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      onBytes();
      // The other half of a line's end that was torn apart.
      const text = endsInCr && value.startsWith("\n") ? value.slice(1) : value;
      endsInCr = value.endsWith("\r");
      const lines = (rest + text).split(/\r\n|\r|\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          yield block;
          block = { name: "message" };
          continue;
        }
        const [, field, content] = /^([^:]*)(?:: ?)?(.*)$/s.exec(line);
        if (field === "id") block.id = content;
        else if (field === "event") block.name = content || "message";
        else if (field === "retry" && /^\d+$/.test(content)) block.retry = Number(content);
        else if (field === "data") {
          block.data = block.data === undefined ? content : `${block.data}\n${content}`;
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already, which its reader knows
  }
}

/** Whether a position lies beyond another. One of another epoch does: the hub sent it later. */
function isBeyond(cursor, other) {
  return epoch(cursor) !== epoch(other) || number(cursor) > number(other);
}

/** A cursor is `<epoch>-<number>`. */
function epoch(cursor) {
  return cursor?.slice(0, cursor.indexOf("-"));
}

function number(cursor) {
  return Number(cursor.slice(cursor.indexOf("-") + 1));
}

function status(state, reason) {
  return { kind: "status", status: { state, reason, since: Date.now() } };
}

function explain(error) {
  if (!navigator.onLine) return "this device is offline";
  // All that a browser tells of a connection that was refused or broke.
  return error instanceof TypeError ? "the hub cannot be reached" : error.message;
}
