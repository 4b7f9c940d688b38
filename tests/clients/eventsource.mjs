// npm `eventsource`: reconnects by itself.
// Usage: node eventsource.mjs URL NAMES, the names as a JSON array; ends with the event "end".
import { EventSource } from "eventsource";

const [url, names] = process.argv.slice(2);
const source = new EventSource(url);
for (const name of JSON.parse(names)) {
  source.addEventListener(name, (event) => {
    // "open" and "error" are also what the client says of itself.
    if (!(event instanceof MessageEvent)) return;
    const { lastEventId: id, type, data } = event;
    console.log(JSON.stringify({ id, name: type, data }));
    if (type === "end") source.close();
  });
}
