// <live-chart minutes="10" series="Page views,Sessions">: lines over a window that slides on.
// Drawn by uPlot, which the page loads before.

const still = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");
const COLOURS = ["--accent", "--second"];
const GAP = 30; // s without a point: nothing is known of them, so no line is drawn

class LiveChart extends HTMLElement {
  #plot = Object.assign(document.createElement("div"), { className: "plot" });
  #names = [];
  #latest = []; // the element with the newest value of each line
  #data;
  #chart;
  #frame = 0;
  #drawn = 0;
  #ends = new AbortController();

  connectedCallback() {
    this.#names = this.getAttribute("series").split(",");
    this.#data = [[], ...this.#names.map(() => [])];
    const keys = Object.assign(document.createElement("ul"), { className: "keys" });
    for (const name of this.#names) {
      const key = Object.assign(document.createElement("li"), { textContent: `${name} ` });
      const latest = Object.assign(document.createElement("b"), { className: "number" });
      this.#latest.push(latest);
      key.append(latest);
      keys.append(key);
    }
    this.#plot.setAttribute("role", "img");
    this.#plot.setAttribute("aria-label", `Chart of ${this.#names.join(" and ")}: nothing yet`);
    this.append(this.#plot, keys);
    const redraw = () => this.#draw();
    dark.addEventListener("change", redraw, { signal: this.#ends.signal });
    const size = new ResizeObserver(() => this.#chart?.setSize(this.#size()));
    size.observe(this.#plot);
    this.#draw();
    const tick = (now) => {
      // So often that the lines move by about a pixel, and not oftener.
      const every = still.matches
        ? 2000
        : Math.max(33, (this.#window * 1000) / this.#plot.clientWidth);
      if (now - this.#drawn >= every) {
        this.#drawn = now;
        this.#slide();
      }
      this.#frame = requestAnimationFrame(tick);
    };
    this.#frame = requestAnimationFrame(tick);
  }

  disconnectedCallback() {
    this.#ends.abort();
    cancelAnimationFrame(this.#frame);
    this.#chart?.destroy();
  }

  /** Adds a point: a time, and a value for each line. Points come in the order of their times. */
  add(at, ...values) {
    const [times] = this.#data;
    const time = at / 1000;
    const last = times.at(-1);
    if (time <= last) return;
    if (time - last > GAP) this.#push(last + 1, []);
    this.#push(time, values);
    // One is left beyond the edge, so that the line comes from there.
    const gone = times.findIndex((time) => time > Date.now() / 1000 - this.#window) - 1;
    if (gone > 0) this.#data.forEach((list) => list.splice(0, gone));
    this.#drawn = 0; // with the next picture
    const latest = values.map((value) => round(value).toLocaleString("en"));
    latest.forEach((text, i) => (this.#latest[i].textContent = text));
    const now = this.#names.map((name, i) => `${name} ${latest[i]}`).join(", ");
    this.#plot.setAttribute("aria-label", `Chart of the last minutes. Now: ${now}`);
  }

  clear() {
    for (const list of this.#data) list.length = 0;
    for (const latest of this.#latest) latest.textContent = "";
  }

  #push(time, values) {
    const [times, ...lines] = this.#data;
    times.push(time);
    lines.forEach((line, i) => line.push(values[i] ?? null));
  }

  /** In seconds. */
  get #window() {
    return Number(this.getAttribute("minutes") ?? 10) * 60;
  }

  #size() {
    return { width: this.#plot.clientWidth, height: this.#plot.clientHeight };
  }

  #slide() {
    const max = Date.now() / 1000;
    this.#chart.batch(() => {
      this.#chart.setData(this.#data, false);
      this.#chart.setScale("x", { min: max - this.#window, max });
    });
  }

  #draw() {
    this.#chart?.destroy();
    const style = getComputedStyle(this);
    // A colour of light-dark() is not one that a canvas understands; a used one is.
    const used = (name) => {
      this.#plot.style.color = `var(${name})`;
      const value = getComputedStyle(this.#plot).color;
      this.#plot.style.color = "";
      return value;
    };
    const em = parseFloat(style.fontSize);
    const letters = Math.max(11, em * 0.78); // px
    const axis = {
      stroke: used("--quiet"),
      font: `${letters}px ${style.fontFamily}`,
      grid: { stroke: used("--line"), width: 1 },
      ticks: { show: false },
    };
    const colours = this.#names.map((_, i) => used(COLOURS[i]));
    const line = (label, i) => ({
      label,
      stroke: colours[i],
      width: Math.max(2, em / 9),
      // Under the first only: two on top of each other are mud.
      fill: i === 0 ? ({ ctx, bbox }) => fade(ctx, bbox, colours[i]) : undefined,
      points: { show: false },
    });
    const options = {
      ...this.#size(),
      padding: [8, em, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { time: true, auto: false },
        y: { range: (_, min, max) => [0, Math.max(5, (max ?? 0) * 1.15)] },
      },
      axes: [
        {
          ...axis,
          grid: { show: false },
          incrs: [60, 120, 300, 600, 1800, 3600],
          space: em * 4.5,
          size: em * 2,
          // Not so far to the left that it stands under the other axis.
          values: ({ scales: { x } }, times) =>
            times.map((time) => (time - x.min < this.#window / 15 ? "" : clock(time))),
        },
        {
          ...axis,
          space: em * 3.2,
          // As wide as the longest of its numbers.
          size: (_, values) =>
            letters * (0.62 * Math.max(1, ...(values ?? []).map((it) => it.length)) + 0.9),
        },
      ],
      series: [{}, ...this.#names.map(line)],
      hooks: { draw: [(chart) => mark(chart, em, colours)] },
    };
    this.#chart = new uPlot(options, this.#data, this.#plot);
  }
}

/** Where each line has got to. */
function mark(chart, em, colours) {
  const { ctx, data } = chart;
  const last = data[0].length - 1;
  if (last < 0 || data[0][last] < chart.scales.x.min) return;
  const x = chart.valToPos(data[0][last], "x", true);
  colours.forEach((colour, i) => {
    const y = chart.valToPos(data[i + 1][last], "y", true);
    for (const [radius, alpha] of [
      [em * 0.55, 0.2],
      [em * 0.24, 1],
    ]) {
      ctx.beginPath();
      ctx.arc(x, y, radius * devicePixelRatio, 0, 2 * Math.PI);
      ctx.fillStyle = translucent(colour, alpha);
      ctx.fill();
    }
  });
}

function fade(ctx, { top, height }, colour) {
  const gradient = ctx.createLinearGradient(0, top, 0, top + height);
  gradient.addColorStop(0, translucent(colour, 0.28));
  gradient.addColorStop(1, translucent(colour, 0.02));
  return gradient;
}

/** Of a colour as a browser computes it, `rgb(1, 2, 3)`. */
function translucent(colour, alpha) {
  return colour.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);
}

function round(value) {
  return value < 10 ? Math.round(value * 10) / 10 : Math.round(value);
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB", {
    hour: "2-digit",
    minute: "2-digit",
  });
}

customElements.define("live-chart", LiveChart);
