// A sale: orders as they are placed, stock as it falls, alerts as the database raises them.

import { live } from "/page.js";
import "/components/activity-feed.js";
import "/components/live-chart.js";
import "/components/metric-card.js";

const LOW = 10; // as in the database, which raises the alert
const MINUTE = 60_000; // ms
const POINT = 2_000; // ms between two points of the chart
const ALERT = 12_000; // ms that an alert stays

const by = (id) => document.getElementById(id);
const chart = document.querySelector("live-chart");
const feed = document.querySelector("activity-feed");
// Alerts are for those who look elsewhere, so this page keeps its stream while it is hidden.
const past = { "shop.orders": 400, "shop.stock": 40, "shop.inventory": 1, "shop.sales": 1 };
const hub = live("shop.>", past, { pause: false, forget });

// --- figures ---

hub.on("counted", ({ data }) => count(data));

function count({ orders, revenue }) {
  by("orders").value = orders;
  by("revenue").value = revenue;
}

// --- orders ---

const placed = []; // those of the last minute: [ms, total]
let sum = 0;
let drawn = 0;

hub.on("placed", ({ id, data: { product, quantity, total, customer, created_at } }) => {
  const at = new Date(created_at);
  feed.add({
    id,
    what: `${quantity} × ${product}`,
    detail: `${customer} · ${total.toFixed(2)} €`,
    tone: "accent",
    at,
  });
  draw(at.getTime());
  placed.push([at.getTime(), total]);
  sum += total;
});

setInterval(() => draw(Date.now()), POINT);

/** Points up to a time, each with what was taken in the minute before it. */
function draw(until) {
  if (!placed.length && !drawn) return; // nothing sold yet
  if (until - drawn > MINUTE) drawn = Math.max(drawn, until - 10 * POINT);
  for (; drawn + POINT <= until;) {
    drawn += POINT;
    while (placed.length && placed[0][0] <= drawn - MINUTE) sum -= placed.shift()[1];
    if (!placed.length) sum = 0; // not what rounding has left of it
    chart.add(new Date(drawn), sum);
    by("orders").note = `${placed.length} per minute`;
    by("revenue").note = `${Math.round(sum).toLocaleString("en")} € per minute`;
  }
}

// --- stock ---

const shelf = new Map(); // product id → its row

hub.on("inventory", ({ data: { products, sales, shoppers } }) => {
  products.forEach(stock);
  count(sales);
  by("shoppers").value = shoppers;
  by("shoppers").note = "in the last five minutes";
});

hub.on("changed", ({ data }) => stock(data));

function stock({ id, name, stock, capacity }) {
  let row = shelf.get(id);
  if (!row) {
    row = document.createElement("li");
    row.append(
      document.createElement("span"),
      document.createElement("span"),
      document.createElement("meter"),
    );
    row.children[1].className = "number";
    row.dataset.product = id;
    shelf.set(id, row);
    // In the order of their numbers, whichever changes first.
    const after = [...by("shelf").children].find((other) => Number(other.dataset.product) > id);
    by("shelf").insertBefore(row, after ?? null);
  }
  const [label, number, meter] = row.children;
  label.textContent = name;
  number.textContent = `${stock} of ${capacity}`;
  Object.assign(meter, { max: capacity, low: LOW, optimum: capacity, value: stock });
  meter.setAttribute("aria-label", `${name}: ${stock} in stock`);
  row.dataset.tone = stock < LOW ? "bad" : "";
  const low = [...shelf.values()].filter((row) => row.dataset.tone === "bad");
  by("low").value = low.length;
  by("low").tone = low.length > 0 ? "bad" : "good";
  const names = low.map((row) => row.children[0].textContent);
  by("low").note = names.join(", ") || `nothing below ${LOW}`;
}

function forget() {
  placed.length = 0;
  [sum, drawn] = [0, 0];
  shelf.clear();
  by("shelf").replaceChildren();
}

// --- alerts ---

let hiding;

hub.on("raised", ({ data: { kind, message, created_at } }) => {
  // Old ones are read in with everything else.
  if (Date.now() - new Date(created_at) > ALERT) return;
  const alert = by("alert");
  alert.textContent = message;
  alert.dataset.tone = kind === "low_stock" ? "bad" : "good";
  alert.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => (alert.hidden = true), ALERT);
  if (kind === "low_stock" && window.Notification?.permission === "granted" && document.hidden) {
    new Notification("Low in stock", { body: message, tag: "low_stock" });
  }
});

const notify = by("notify");
notify.addEventListener("click", async () => {
  await Notification.requestPermission();
  offer();
});

function offer() {
  const permission = window.Notification?.permission;
  notify.hidden = permission === undefined;
  notify.disabled = permission !== "default";
  if (permission === "granted") notify.textContent = "You are notified of alerts";
  if (permission === "denied") notify.textContent = "Notifications are blocked";
}
offer();
