// npm `eventsource-parser` on fetch, and the loop around it that reconnects.
// Usage: node parser.mjs URL; ends with the event "end".
import { createParser } from "eventsource-parser";

const [url] = process.argv.slice(2);
let lastEventId;
let ended = false;
let retry = 1000;

async function follow() {
  const headers = { accept: "text/event-stream" };
  if (lastEventId) headers["last-event-id"] = lastEventId;
  const response = await fetch(url, { headers });
  if (response.status !== 200) throw new Error(`status ${response.status}`);
  const parser = createParser({
    onRetry: (pause) => (retry = pause),
    onEvent: ({ id, event: name = "message", data }) => {
      lastEventId = id ?? lastEventId;
      console.log(JSON.stringify({ id: lastEventId, name, data }));
      if (name === "end") ended = true;
    },
  });
  const decoder = new TextDecoder();
  for await (const bytes of response.body) {
    parser.feed(decoder.decode(bytes, { stream: true }));
    if (ended) return;
  }
}

while (!ended) {
  await follow().catch((error) => console.error(`cut: ${error.cause ?? error}`));
  if (!ended) await new Promise((done) => setTimeout(done, retry));
}
