/** An event of the hub. */
export interface HubEvent<T = unknown> {
  /** Its cursor, `<epoch>-<number>`. */
  readonly id: string;
  readonly name: string;
  /** What was published, decoded. */
  readonly data: T;
  /** The last event of its topic, given to everybody who comes; it may be known already. */
  readonly isRetained: boolean;
  /** With `envelope` (the default) only. */
  readonly topic?: string;
  readonly key?: string | null;
  readonly at?: Date;
  /** Whether it sets its topic's state (true), ends it (false), or has nothing to do with it. */
  readonly retain?: boolean;
}

/** Told when events that were asked for do not exist any more. The stream goes on after `to`. */
export interface Gap {
  readonly reason: "retention" | "epoch" | "unknown";
  readonly from: string;
  readonly to: string;
  /** How many events of all topics, where that can be said. */
  readonly missing?: number;
}

export interface Status {
  /**
   * - `connecting`: for the first time, or after a pause
   * - `live`: events come as they happen
   * - `stale`: nothing was heard for a while, or the tab is hidden, or streams are blocked and
   *   the hub is asked now and then
   * - `reconnecting`: the connection broke; it is tried again and again
   * - `closed`: for good, by the page or because the hub refused
   */
  readonly state: "connecting" | "live" | "stale" | "reconnecting" | "closed";
  /** Why, for a person to read. Empty while all is well. */
  readonly reason: string;
  /** ms since 1970. */
  readonly since: number;
}

export interface Options {
  /** Address of the hub. Default: the page's own origin. */
  hub?: string;
  /** Begin with the last so many events. Default: 0. */
  last?: number;
  /** Begin after this cursor, such as the `next` of `GET /v1/events`. Counts before `last`. */
  after?: string;
  /** Ask for topic, key and time beside the data. Default: true. */
  envelope?: boolean;
  /**
   * One stream for all tabs of a browser that follow the same topics. Default: true; with a
   * `token` only if this is a text, which keeps apart those who must not share: a user's id.
   */
  share?: boolean | string;
  /** Let go of the stream while the tab is hidden, and go on from the cursor. Default: true. */
  pause?: boolean;
  /**
   * The bearer token, asked for before each connection; with `renew` when the hub has refused the
   * last one, or has ended the stream because it has expired. Where a cookie says who asks, it
   * gives none, and with `renew` sees to it that the cookie is a new one.
   */
  token?: (ask: { renew: boolean }) => string | undefined | Promise<string | undefined>;
  /** As of `fetch`: `include` sends cookies to a hub of another origin. Default: `same-origin`. */
  credentials?: RequestCredentials;
  /** In ms. */
  times?: Partial<Times>;
}

/** All in ms. */
export interface Times {
  /** Without a sign of life for so long, the status is `stale`. Default: 20,000. */
  stale: number;
  /** … and after so long it connects anew. Default: 45,000. */
  silence: number;
  /** No byte of a stream for so long: see whether plain requests work. Default: 10,000. */
  blocked: number;
  /** Between two requests where streams are blocked. Default: 60,000. */
  poll: number;
  /** How long a tab is hidden before it lets go of the stream. Default: 10,000. */
  hidden: number;
  /** First and largest limit of the random pause between attempts. Default: 1,000, 30,000. */
  backoff: [number, number];
  /** A connection that lasted so long lets the pauses begin anew. Default: 10,000. */
  stable: number;
  /** How often the tab with the stream tells the others that it lives. Default: 5,000. */
  alive: number;
  /** When it has not for so long, another tab takes over. Default: 20,000. */
  hung: number;
}

export interface Connection extends EventTarget {
  readonly status: Status;
  /** The position reached; undefined until the hub has told it. */
  readonly cursor: string | undefined;
  /** Calls a handler for events of this name, `*` for all. Returns what stops that. */
  on<T = unknown>(name: string, handler: (event: HubEvent<T>) => void): () => void;
  /** For good. */
  close(): void;
  addEventListener(
    type: "status",
    listener: (event: CustomEvent<Status>) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: "gap",
    listener: (event: CustomEvent<Gap>) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

/** Follows topics: patterns such as `orders`, `org.*.alerts`, `shop.>`, or several of them. */
export function connect(topics: string | readonly string[], options?: Options): Connection;
