// <gap-notice>: that something was missed, until somebody has read it.

const STAYS = 10 * 60_000; // ms: nobody closes it on a wall

class GapNotice extends HTMLElement {
  #text = document.createElement("span");
  #hiding;

  connectedCallback() {
    this.setAttribute("role", "status");
    const close = document.createElement("button");
    Object.assign(close, { type: "button", className: "small", textContent: "Close" });
    close.addEventListener("click", () => this.close());
    this.append(this.#text, close);
  }

  tell(text) {
    const now = new Date().toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
    this.#text.textContent = `${now} · ${text}`;
    this.hidden = false;
    clearTimeout(this.#hiding);
    this.#hiding = setTimeout(() => this.close(), STAYS);
  }

  close() {
    clearTimeout(this.#hiding);
    this.hidden = true;
  }
}

customElements.define("gap-notice", GapNotice);
