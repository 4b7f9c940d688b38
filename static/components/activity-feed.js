// <activity-feed most="50">: what happened, newest first. Holds so many rows and no more.

const EVERY = 5_000; // ms between two looks at the ages

class ActivityFeed extends HTMLElement {
  #list = document.createElement("ol");
  #empty = Object.assign(document.createElement("p"), { className: "empty" });
  #pending = [];
  #frame = 0;
  #clock;

  connectedCallback() {
    this.#list.tabIndex = 0; // it scrolls, so the keyboard must get there
    this.#list.setAttribute("aria-label", this.getAttribute("label") ?? "Activity");
    this.#empty.textContent = this.getAttribute("empty") ?? "Nothing has happened yet.";
    this.#list.hidden = this.#list.children.length === 0;
    this.append(this.#empty, this.#list);
    this.#clock = setInterval(() => this.#age(), EVERY);
  }

  disconnectedCallback() {
    clearInterval(this.#clock);
  }

  /** Adds a row: `id` for whoever looks for it, what, a detail, a tone and the time. */
  add(item) {
    this.#pending.push(item);
    if (this.#pending.length > 2 * this.#most) this.#pending.splice(0, this.#most);
    // With the next picture, however many come before.
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  clear() {
    this.#pending = [];
    this.#list.replaceChildren();
    this.#list.hidden = true;
    this.#empty.hidden = false;
  }

  get #most() {
    return Number(this.getAttribute("most") ?? 50);
  }

  #draw() {
    this.#frame = 0;
    if (!this.#pending.length) return;
    this.#list.prepend(...this.#pending.slice(-this.#most).map(row).reverse());
    this.#pending = [];
    while (this.#list.children.length > this.#most) this.#list.lastChild.remove();
    this.#list.hidden = false;
    this.#empty.hidden = true;
  }

  #age() {
    for (const time of this.#list.querySelectorAll("time")) {
      const text = age(new Date(time.dateTime));
      if (time.textContent !== text) time.textContent = text;
    }
  }
}

function row({ id, what, detail = "", tone = "", at = new Date() }) {
  const row = document.createElement("li");
  row.dataset.id = id;
  row.dataset.tone = tone;
  // Not while older ones are read in: they all would.
  if (Date.now() - at < EVERY) row.className = "arrives";
  const time = Object.assign(document.createElement("time"), { dateTime: at.toISOString() });
  time.textContent = age(at);
  const text = part("span", "what");
  text.append(part("span", "", what), " ", part("span", "detail", detail));
  text.title = `${what} ${detail}`;
  row.append(part("span", "dot"), text, time);
  return row;
}

function part(name, className, text = "") {
  return Object.assign(document.createElement(name), { className, textContent: text });
}

/** How long ago, in one unit. */
export function age(at) {
  const seconds = Math.max(0, Math.round((Date.now() - at) / 1000));
  if (seconds < 5) return "now";
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

customElements.define("activity-feed", ActivityFeed);
