// A stream of events as the usual tutorials build it: one subscription to Redis, or one LISTEN in Postgres,
// and a loop over the clients. node server.mjs redis|postgres URL
import { createServer } from "node:http";

const [, , source, url] = process.argv;
const clients = new Set();
let id = 0;

function send(message) {
  const block = `id: ${++id}\nevent: e\ndata: ${message}\n\n`;
  for (const client of clients) client.write(block);
}

if (source === "redis") {
  const { createClient } = await import("redis");
  const subscriber = createClient({ url });
  await subscriber.connect();
  await subscriber.subscribe("load", send);
} else {
  const { default: pg } = await import("pg");
  const listener = new pg.Client({ connectionString: url });
  await listener.connect();
  listener.on("notification", ({ payload }) => send(payload));
  await listener.query("LISTEN load");
}

const server = createServer((request, response) => {
  response.writeHead(200, {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    Connection: "keep-alive",
    "X-Accel-Buffering": "no",
  });
  response.write("retry: 5000\n\n");
  clients.add(response);
  request.on("close", () => clients.delete(response));
});
server.requestTimeout = 0;
server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 }, () => {
  console.log(`127.0.0.1:${server.address().port}`);
});
