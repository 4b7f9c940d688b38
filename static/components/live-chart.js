// <live-chart minutes="10" series="Page views,Sessions">: lines over a window that slides on.
// Drawn by uPlot, which the page loads before.

const still = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");
const COLOURS = ["--accent", "--second"];

class LiveChart extends HTMLElement {
  #plot = Object.assign(document.createElement("div"), { className: "plot" });
  #names = [];
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
      keys.append(Object.assign(document.createElement("li"), { textContent: name }));
    }
    this.#plot.setAttribute("role", "img");
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
    const [times, ...lines] = this.#data;
    const time = at / 1000;
    if (time <= times.at(-1)) return;
    times.push(time);
    lines.forEach((line, i) => line.push(values[i] ?? null));
    // One is left beyond the edge, so that the line comes from there.
    const gone = times.findIndex((time) => time > Date.now() / 1000 - this.#window) - 1;
    if (gone > 0) this.#data.forEach((list) => list.splice(0, gone));
    const latest = this.#names.map((name, i) => `${name} ${Math.round(values[i])}`).join(", ");
    this.#plot.setAttribute("aria-label", `Chart of the last minutes. Now: ${latest}`);
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
    const font = `${Math.max(11, parseFloat(style.fontSize) * 0.78)}px ${style.fontFamily}`;
    const axis = {
      stroke: used("--quiet"),
      font,
      grid: { stroke: used("--line"), width: 1 },
      ticks: { show: false },
    };
    const width = parseFloat(style.fontSize);
    const line = (label, i) => {
      const stroke = used(COLOURS[i]);
      return {
        label,
        stroke,
        width: Math.max(2, width / 9),
        fill: stroke.replace(/^rgb\((.*)\)$/, "rgba($1, 0.09)"),
        points: { show: false },
        spanGaps: true,
      };
    };
    const options = {
      ...this.#size(),
      padding: [8, width * 1.4, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: {
        x: { time: true, auto: false },
        y: { range: (_, min, max) => [0, Math.max(5, (max ?? 0) * 1.15)] },
      },
      axes: [
        {
          ...axis,
          incrs: [60, 120, 300, 600, 1800, 3600],
          space: width * 4.5,
          size: width * 2,
          values: (_, times) => times.map(clock),
        },
        { ...axis, space: width * 4, size: width * 3.2 },
      ],
      series: [{}, ...this.#names.map(line)],
    };
    this.#chart = new uPlot(options, this.#data, this.#plot);
  }
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB", {
    hour: "2-digit",
    minute: "2-digit",
  });
}

customElements.define("live-chart", LiveChart);
