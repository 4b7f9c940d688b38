// Figures of a site: snapshots that the database counts, and what visitors do.

import { live } from "/page.js";
import "/components/activity-feed.js";
import "/components/live-chart.js";
import "/components/metric-card.js";

const LABELS = {
  page_view: "Page view",
  button_click: "Click",
  form_submit: "Form sent",
  signup: "Signup",
  purchase: "Purchase",
  search: "Search",
  file_upload: "Upload",
  share: "Share",
};
const TONES = {
  button_click: "accent",
  form_submit: "accent",
  search: "second",
  signup: "warn",
  purchase: "good",
};
const MINUTE = 60_000; // ms

const by = (id) => document.getElementById(id);
const chart = document.querySelector("live-chart");
const feed = document.querySelector("activity-feed");
const hub = live(["events", "metrics"], { metrics: 200, events: 40 }, { forget });

const counts = []; // the snapshots of the last minute and a bit: [ms, page views]

hub.on("snapshot", ({ data }) => {
  const at = new Date(data.recorded_at);
  by("views").value = data.page_views;
  by("sessions").value = data.active_sessions;
  by("sessions").note = "in the last five minutes";
  by("events").value = data.events_count;
  by("events").note = "since the beginning";

  counts.push([at.getTime(), data.page_views]);
  while (counts.length > 2 && counts[1][0] <= at - MINUTE) counts.shift();
  const [since, before] = counts[0];
  if (at - since < MINUTE / 2) return;
  const rate = ((data.page_views - before) / (at - since)) * MINUTE;
  by("views").note = `${Math.round(rate)} per minute`;
  chart.add(at, rate, data.active_sessions);
});

hub.on("*", ({ id, topic, name, data, at }) => {
  if (topic !== "events") return;
  time(at);
  const { page, plan, amount, results } = data.properties ?? {};
  const detail = [
    page,
    plan,
    amount && `${amount} €`,
    results !== undefined && `${results} results`,
  ];
  feed.add({
    id,
    what: LABELS[name] ?? name,
    detail: detail.filter(Boolean).join(" · "),
    tone: TONES[name],
    at: new Date(data.created_at),
  });
});

const lags = []; // of the newest events, in ms

function forget() {
  counts.length = 0;
  lags.length = 0;
}

/** How long ago an event was inserted, by the database's clock and this one. */
function time(at) {
  const { state, since } = hub.status ?? {};
  if (state !== "live" || at < since) return; // read in with what was before
  lags.unshift(Math.max(0, Date.now() - at));
  lags.length = Math.min(lags.length, 15);
  by("lag").value = [...lags].sort((a, b) => a - b)[lags.length >> 1];
  by("lag").note = `median of the last ${lags.length}`;
}
