// <metric-card label="Orders today" unit="€" digits="0">: a figure that moves to its new value.

const still = matchMedia("(prefers-reduced-motion: reduce)");
const LASTS = 500; // ms

class MetricCard extends HTMLElement {
  #label = element("div", "label");
  #value = element("div", "value");
  #note = element("div", "note");
  #shown;
  #frame = 0;

  connectedCallback() {
    if (this.#value.isConnected) return;
    this.#label.textContent = this.getAttribute("label");
    this.#value.textContent = "–";
    this.append(this.#label, this.#value, this.#note);
    this.setAttribute("role", "group");
    this.setAttribute("aria-label", this.getAttribute("label"));
  }

  /** A number; eased from the one that is shown. */
  set value(target) {
    cancelAnimationFrame(this.#frame);
    const from = this.#shown;
    // A hidden page draws no frames, and would show the old figure for ever.
    if (from === undefined || from === target || still.matches || document.hidden) {
      return this.#show(target);
    }
    const began = performance.now();
    const step = (now) => {
      const part = Math.min(1, Math.max(0, now - began) / LASTS);
      this.#show(part === 1 ? target : from + (target - from) * (1 - (1 - part) ** 3));
      if (part < 1) this.#frame = requestAnimationFrame(step);
    };
    this.#frame = requestAnimationFrame(step);
  }

  clear() {
    cancelAnimationFrame(this.#frame);
    this.#shown = undefined;
    this.#value.textContent = "–";
    this.note = "";
    this.tone = "";
  }

  set note(text) {
    this.#note.textContent = text;
  }

  /** good, warn, bad or nothing. */
  set tone(tone) {
    this.dataset.tone = tone ?? "";
  }

  #show(number) {
    this.#shown = number;
    const digits = Number(this.getAttribute("digits") ?? 0);
    const unit = this.getAttribute("unit") ?? "";
    const text = number.toLocaleString("en", {
      minimumFractionDigits: digits,
      maximumFractionDigits: digits,
    });
    this.#value.textContent = text + unit;
  }
}

function element(name, className) {
  return Object.assign(document.createElement(name), { className });
}

customElements.define("metric-card", MetricCard);
