// The monitors of one organisation: only its topics are asked for.

import { live } from "/page.js";
import "/components/activity-feed.js";
import "/components/metric-card.js";

const BEATS = 40; // probes shown for each monitor

const by = (id) => document.getElementById(id);
const feed = document.querySelector("activity-feed");
const org = new URLSearchParams(location.search).get("org");
const monitors = new Map(); // id → its tile, its state and its last latency

if (/^\d+$/.test(org ?? "")) {
  by("choose").hidden = true;
  for (const part of document.querySelectorAll("[data-board]")) part.hidden = false;
  const past = { summary: 1, monitors: 40, probes: 400, incidents: 40 };
  const topics = Object.entries(past).map(([topic, last]) => [`org.${org}.${topic}`, last]);
  follow(live(`org.${org}.>`, Object.fromEntries(topics), { forget }));
} else {
  document.querySelector("connection-badge").hidden = true;
}

function follow(hub) {
  hub.on("summary", ({ data }) => {
    by("subtitle").textContent = data.organisation;
    document.title = `${data.organisation} · Uptime`;
    data.monitors.forEach(show);
    glance();
  });
  hub.on("state", ({ data }) => {
    show(data);
    glance();
  });
  hub.on("probe", ({ data }) => {
    beat(data);
    glance();
  });
  hub.on("incident", incident);
}

function incident({ id, data: { monitor, opened_at, closed_at } }) {
  const [from, to] = [new Date(opened_at), new Date(closed_at ?? opened_at)];
  const lasted =
    to - from >= 60_000
      ? `${Math.round((to - from) / 60_000)} min`
      : `${Math.round((to - from) / 1000)} s`;
  const detail = closed_at ? `is up again, after ${lasted}` : "is down";
  feed.add({ id, what: monitor, detail, tone: closed_at ? "good" : "bad", at: to });
}

/** The tile of a monitor, which may be known by a probe before its name. */
function tile(id) {
  let monitor = monitors.get(id);
  if (monitor) return monitor;
  const row = document.createElement("li");
  const title = document.createElement("h3");
  title.append(part("span"), part("span", "state"));
  title.firstChild.textContent = `Monitor ${id}`;
  const facts = document.createElement("div");
  facts.className = "quiet number";
  const beats = part("div", "beats");
  beats.setAttribute("aria-hidden", "true"); // the same is in the figures
  for (let i = 0; i < BEATS; i++) beats.append(document.createElement("i"));
  row.append(title, facts, beats);
  // In the order of their numbers, whichever comes first.
  const after = [...by("monitors").children].find((other) => Number(other.dataset.monitor) > id);
  row.dataset.monitor = id;
  by("monitors").insertBefore(row, after ?? null);
  monitor = { row, title, facts, beats, state: "up" };
  monitors.set(id, monitor);
  return monitor;
}

function show({ id, name, state, uptime }) {
  const monitor = tile(id);
  monitor.state = state;
  if (uptime !== undefined) monitor.uptime = uptime;
  monitor.row.dataset.tone = state === "up" ? "good" : "bad";
  monitor.title.children[0].textContent = name;
  monitor.title.children[1].textContent = state;
  describe(monitor);
}

function beat({ monitor_id, is_ok, latency_ms }) {
  const monitor = tile(monitor_id);
  monitor.latency = is_ok ? latency_ms : undefined;
  const mark = monitor.beats.firstChild;
  const isSlow = latency_ms > 400;
  mark.dataset.tone = is_ok ? (isSlow ? "warn" : "good") : "bad";
  mark.style.setProperty("--height", is_ok ? Math.min(1, 0.2 + latency_ms / 700) : 1);
  monitor.beats.append(mark);
  describe(monitor);
}

function describe({ facts, latency, uptime }) {
  const now = latency === undefined ? "no answer" : `${latency} ms`;
  facts.textContent =
    uptime === undefined ? now : `${now} · ${uptime.toFixed(2)} % up in the last hour`;
}

function forget() {
  monitors.clear();
  by("monitors").replaceChildren();
}

function glance() {
  const all = [...monitors.values()];
  const down = all.filter(({ state }) => state !== "up");
  by("up").value = all.length - down.length;
  by("up").note = `of ${all.length}`;
  by("down").value = down.length;
  by("down").tone = down.length > 0 ? "bad" : "good";
  const names = down.map(({ title }) => title.children[0].textContent);
  by("down").note = names.join(", ") || "all is well";
  const uptimes = all.map(({ uptime }) => uptime).filter((uptime) => uptime !== undefined);
  if (uptimes.length) by("uptime").value = mean(uptimes);
  by("uptime").note = "mean of all";
  const latencies = all.map(({ latency }) => latency).filter((latency) => latency !== undefined);
  if (latencies.length) by("latency").value = mean(latencies);
  by("latency").note = "mean of all";
}

function mean(numbers) {
  return numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
}

function part(name, className = "") {
  return Object.assign(document.createElement(name), { className });
}
