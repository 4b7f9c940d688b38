// What the types allow, and what not. Compiled by tsc, never run.
import { connect, type Gap, type HubEvent, type Status } from "../../static/bellwether.js";

interface Order {
  id: number;
  total: number;
}

const orders = connect(["shop.orders", "shop.stock"], {
  hub: "https://hub.example",
  last: 20,
  token: async ({ renew }) => (renew ? "new" : "old"),
  share: "user 7",
  times: { silence: 30_000 },
});

const stop: () => void = orders.on<Order>("placed", (event: HubEvent<Order>) => {
  const total: number = event.data.total;
  const at: Date | undefined = event.at;
  console.log(event.id.length, total, at?.getTime(), event.isRetained);
});
orders.on("*", ({ data }) => {
  // @ts-expect-error: nothing is known of it
  data.total;
});
orders.addEventListener("status", ({ detail }) => {
  const status: Status = detail;
  const isLive: boolean = status.state === "live" && orders.status.reason === "";
  // @ts-expect-error: there is no such state
  console.log(isLive, status.state === "open");
});
orders.addEventListener("gap", ({ detail }) => {
  const gap: Gap = detail;
  console.log(gap.reason, gap.missing?.toFixed());
});
const cursor: string | undefined = orders.cursor;
connect("shop.>", { after: cursor, pause: false, envelope: false }).close();
stop();

// @ts-expect-error: what to follow must be said
connect();
// @ts-expect-error: of what there are so many is a number
connect("shop.orders", { last: "20" });
// @ts-expect-error: a hub's word cannot be changed
orders.status = undefined;
