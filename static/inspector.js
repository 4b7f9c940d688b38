// The inspector: what goes through this hub, and how it is doing.

import { connect } from "/bellwether.js";
import { isSignedIn, request, session } from "/session.js";
import { watch } from "/status.js";
import "/components/connection-badge.js";
import "/components/gap-notice.js";
import "/components/live-chart.js";
import "/components/metric-card.js";

const ROWS = 200; // shown; older ones go
const MEAN = 10; // s over which the rate is taken
const WAITING = 1000; // kept while paused; older ones go

const TIME = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
});

const by = (id) => document.getElementById(id);
const rows = by("rows");
const chart = document.querySelector("live-chart");
const badge = document.querySelector("connection-badge");
let connection;
let pending = []; // what is to be shown with the next picture
let frame = 0;
let waiting; // what came since the pause, if there is one
let dropped = 0; // and how much of it was not kept
let seen = 0;

// --- events ---

function follow(pattern) {
  connection?.close();
  pending = [];
  rows.replaceChildren();
  by("none").hidden = false;
  by("gap").close();
  seen = 0;
  waiting &&= [];
  dropped = 0;
  connection = connect(pattern, { last: 100, ...session });
  connection.on("*", (event) => {
    seen++;
    if (!waiting) return show(event);
    waiting.push(event);
    if (waiting.length > WAITING) dropped += waiting.splice(0, WAITING / 2).length;
    count();
  });
  connection.addEventListener("gap", ({ detail: { reason, from, to, missing } }) => {
    // Else all that is kept would come, which can be the events of a week.
    follow(pattern);
    const many = missing === undefined ? "Some events" : `${missing.toLocaleString("en")} events`;
    by("gap").tell(`${many} between ${from} and ${to} do not exist any more (${reason}).`);
  });
  connection.addEventListener("status", ({ detail }) => detail.state === "live" && look());
  badge.connection = connection;
  count();
}

/** With the next picture: of thousands in a second only those are drawn that are seen. */
function show(event) {
  pending.push(event);
  if (pending.length > 2 * ROWS) pending.splice(0, ROWS);
  frame ||= requestAnimationFrame(draw);
}

function draw() {
  frame = 0;
  rows.prepend(...pending.slice(-ROWS).map(row).reverse());
  pending = [];
  while (rows.children.length > ROWS) rows.lastChild.remove();
  by("none").hidden = rows.children.length > 0;
  count();
}

function row(event) {
  const row = document.createElement("tr");
  row.dataset.id = event.id;
  row.className = "arrives";
  const time = document.createElement("time");
  if (event.at) {
    time.dateTime = event.at.toISOString();
    time.textContent = TIME.format(event.at);
  }
  row.append(
    cell(time),
    cell(event.topic),
    cell(event.isRetained ? `${event.name} (state)` : event.name),
    cell(code(event.id)),
    cell(details(JSON.stringify(event.data), event)),
  );
  row.hidden = !matches(row);
  return row;
}

function details(text, event) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = text;
  details.append(summary);
  // Set in order only when somebody looks.
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const pre = document.createElement("pre");
    pre.textContent =
      JSON.stringify(event.data, null, 2) + (event.key ? `\n\nkey: ${event.key}` : "");
    details.append(pre);
  });
  return details;
}

function cell(content) {
  const cell = document.createElement("td");
  cell.append(content ?? "");
  return cell;
}

function code(text) {
  return Object.assign(document.createElement("code"), { textContent: text });
}

function matches(row) {
  return row.textContent.toLowerCase().includes(by("filter").value.trim().toLowerCase());
}

function count() {
  const kept = waiting ? `, ${waiting.length + dropped} waiting` : "";
  by("count").textContent = `${seen.toLocaleString("en")} seen${kept}`;
}

by("filter").addEventListener("input", () => {
  for (const row of rows.children) row.hidden = !matches(row);
});

by("pause").addEventListener("click", () => {
  const isPaused = !waiting;
  by("pause").setAttribute("aria-pressed", isPaused);
  by("pause").textContent = isPaused ? "Go on" : "Pause";
  const missed = waiting ?? [];
  waiting = isPaused ? [] : undefined;
  dropped = 0;
  missed.slice(-ROWS).forEach(show);
  count();
});

by("copy").addEventListener("click", async () => {
  const query = new URLSearchParams({ topic: by("topic").value });
  const button = by("copy");
  try {
    const bearer = isSignedIn() ? '-H "Authorization: Bearer $BELLWETHER_TOKEN" ' : "";
    const line = `curl -N ${bearer}'${location.origin}/v1/stream?${query}'`;
    await navigator.clipboard.writeText(line);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed to copy";
  }
  setTimeout(() => (button.textContent = "Copy as curl"), 2000);
});

by("follow").addEventListener("submit", (submit) => {
  submit.preventDefault();
  const pattern = by("topic").value.trim() || ">";
  history.replaceState(
    null,
    "",
    pattern === ">" ? "/" : `/?${new URLSearchParams({ topic: pattern })}`,
  );
  follow(pattern);
});

// --- a test event ---

by("send").addEventListener("submit", async (submit) => {
  submit.preventDefault();
  const { topic, event, key, retain, data } = Object.fromEntries(new FormData(by("send")));
  try {
    JSON.parse(data);
  } catch (error) {
    return say(`This is no JSON: ${error.message}`);
  }
  const head = { topic, event, key: key || undefined, retain: retain ? true : undefined };
  try {
    const response = await request("/v1/events", {
      method: "POST",
      headers: { "content-type": "application/json" },
      // The data as it was written: 1.50 is not 1.5 to everybody.
      body: `${JSON.stringify(head).slice(0, -1)},"data":${data}}`,
    });
    if (response.status === 404 || response.status === 405) {
      by("send").querySelector("button").disabled = true;
      return say("This hub does not publish over HTTP: insert a row instead.");
    }
    const { ids, error } = await response.json();
    say(error?.message ?? `Sent: ${ids?.join(", ") ?? "it has no number yet"}`);
  } catch {
    say("The hub cannot be reached.");
  }
});

function say(text) {
  by("sent").textContent = text;
}

// --- the hub ---

const look = watch(
  (now, before) => {
    const { until, seconds, counts } = now.recent;
    // As the mean of some seconds: what happens now and then would be a comb.
    const most = MEAN / seconds;
    const rates = counts.map((_, i) => {
      const some = counts.slice(Math.max(0, i + 1 - most), i + 1);
      return some.reduce((sum, count) => sum + count) / (some.length * seconds);
    });
    rates.forEach((rate, i) => {
      const end = until - (counts.length - 1 - i) * seconds;
      chart.add(new Date(end * 1000), rate);
    });
    const isYoung = counts.length * seconds < 290;
    by("since").textContent = isYoung ? "since this hub started" : "last 5 minutes";
    by("rate").value = rates.at(-1) ?? 0;
    by("rate").note = `mean of the last ${MEAN} s`;
    by("lag").note = "of the newest event";
    by("clients").note = "open streams";
    by("lanes").note = "different subscriptions";
    by("lag").value = now.lag_ms;
    by("clients").value = now.clients;
    by("lanes").value = now.lanes;
    by("rings").value = now.rings;
    by("rings").note = `for ${now.read.toLocaleString("en")} events`;
    by("ready").textContent = now.ready ? "yes" : now.reasons.join("; ");
    by("head").textContent = now.head ?? "none";
    const head = Number(now.head?.split("-")[1] ?? 0);
    by("ring").textContent = `the last ${(head - now.ring_floor).toLocaleString("en")} events`;
    by("version").textContent = now.version;
    if (!before || now.read > before.read) {
      const isOurs = now.numbered > (before?.numbered ?? 0);
      if (now.read > 0) by("numbering").textContent = isOurs ? "this hub" : "another hub";
    }
  },
  (why) => {
    by("ready").textContent = why;
  },
);

const asked = new URLSearchParams(location.search).get("topic");
if (asked) by("topic").value = asked;
follow(asked ?? ">");
