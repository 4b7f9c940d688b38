// <connection-badge>: whether what the page shows is of now, and if not, why.

import { age } from "./activity-feed.js";

const TONES = {
  live: "good",
  connecting: "warn",
  stale: "warn",
  reconnecting: "bad",
  closed: "bad",
};

class ConnectionBadge extends HTMLElement {
  #state = part("state");
  #what = part("what"); // left out where there is no room
  #rest = part("rest");
  #connection;
  #last;
  #clock;

  connectedCallback() {
    // Only the state is read out, and not each second the age.
    this.#state.setAttribute("role", "status");
    const rest = part("");
    rest.append(this.#what, this.#rest);
    this.append(part("lamp"), this.#state, rest);
    this.#clock = setInterval(() => this.#show(), 1000);
    this.#show();
  }

  disconnectedCallback() {
    clearInterval(this.#clock);
  }

  /** The one whose state is shown; undefined as long as there is none. */
  set connection(connection) {
    this.#connection = connection;
    connection?.addEventListener("status", () => this.#show());
    connection?.on("*", ({ at }) => this.see(at));
    this.#show();
  }

  /** An event of this time is known. States that are given to everybody may be old. */
  see(at = new Date()) {
    if (!(at < this.#last)) this.#last = at;
  }

  #show() {
    const { state, reason } = this.#connection?.status ?? { state: "connecting", reason: "" };
    this.dataset.state = state;
    this.dataset.tone = TONES[state];
    set(this.#state, state);
    set(this.#what, reason || !this.#last ? "" : "last event ");
    set(this.#rest, reason || (this.#last ? ago(this.#last) : "no event yet"));
  }
}

function part(className) {
  return Object.assign(document.createElement("span"), { className });
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function ago(at) {
  const text = age(at);
  return text === "now" ? "just now" : `${text} ago`;
}

customElements.define("connection-badge", ConnectionBadge);
