// Chromium's EventSource, in a page of another origin than the hub's.
// Usage: node browser.mjs URL NAMES, the names as a JSON array; ends with the event "end".
import { accessSync, constants } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [url, names] = process.argv.slice(2);

function findBrowser() {
  for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
    for (const folder of process.env.PATH.split(":")) {
      try {
        accessSync(join(folder, name), constants.X_OK);
        return join(folder, name);
      } catch {
        // Not there.
      }
    }
  }
  throw new Error("no Chromium found: apt-get install chromium");
}

const pages = createServer((_, response) => {
  response.setHeader("content-type", "text/html");
  response.end("<!doctype html><title>another origin</title>");
});
await new Promise((done) => pages.listen(0, "127.0.0.1", done));

// "" is a new profile, which goes when the browser does.
const context = await chromium.launchPersistentContext("", {
  executablePath: findBrowser(),
  headless: true,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
  ],
});
const page = context.pages()[0] ?? (await context.newPage());
page.on("console", (message) => console.error(`console: ${message.text()}`));
page.on("pageerror", (error) => console.error(`page: ${error}`));
let end;
const ended = new Promise((done) => (end = done));
await page.exposeFunction("seen", (event) => {
  console.log(JSON.stringify(event));
  if (event.name === "end") end();
});
await page.goto(`http://127.0.0.1:${pages.address().port}/`);
await page.evaluate(
  ({ url, names }) => {
    const source = new EventSource(url);
    for (const name of names) {
      source.addEventListener(name, (event) => {
        // "open" and "error" are also what the browser says of itself.
        if (!(event instanceof MessageEvent)) return;
        const { lastEventId: id, type, data } = event;
        window.seen({ id, name: type, data });
        if (type === "end") source.close();
      });
    }
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) console.log("closed for ever");
    });
  },
  { url, names: JSON.parse(names) },
);
await ended;
await context.close();
pages.close();
pages.closeAllConnections();
