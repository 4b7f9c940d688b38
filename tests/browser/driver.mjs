// Chromium, driven by lines of JSON: {"do": …} in, {"is": …} or {"error": …} out.
// Tabs are numbers. What a page complains of is kept, for "troubles".
import { spawn } from "node:child_process";
import { accessSync, constants, existsSync, mkdtempSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const { chromium } = createRequire(new URL("../clients/", import.meta.url))("playwright-core");

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

const profile = mkdtempSync(join(tmpdir(), "bellwether-browser-"));
const flags = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
  "--remote-debugging-port=0",
  `--user-data-dir=${profile}`,
  "about:blank",
];
const browser = spawn(findBrowser(), flags, { stdio: "ignore" });
const ended = new Promise((done) => browser.once("exit", done));

// It writes the port that it has chosen into its profile.
const told = join(profile, "DevToolsActivePort");
while (!existsSync(told) || !readFileSync(told, "utf8").includes("\n")) {
  if (browser.exitCode !== null) throw new Error(`Chromium has ended: ${browser.exitCode}`);
  await new Promise((done) => setTimeout(done, 20));
}
const port = readFileSync(told, "utf8").split("\n")[0];
// Without playwright's defaults, which make every tab believe that it is in front.
const connected = await chromium.connectOverCDP(`http://127.0.0.1:${port}`, { noDefaults: true });
const context = connected.contexts()[0];
const tabs = [];

const verbs = {
  async open({ url }) {
    const page = await context.newPage();
    const tab = { page, troubles: [] };
    page.on("console", (message) => {
      if (message.type() === "error") tab.troubles.push(message.text());
    });
    page.on("pageerror", (error) => tab.troubles.push(String(error)));
    tabs.push(tab);
    await page.goto(url);
    return tabs.length - 1;
  },
  async eval({ tab, code }) {
    for (;;) {
      try {
        return await tabs[tab].page.evaluate(code);
      } catch (error) {
        // The page is being loaded anew: ask that one.
        if (!String(error).includes("context was destroyed")) throw error;
      }
    }
  },
  // Does not wait for what the code does.
  begin({ tab, code }) {
    tabs[tab].page.evaluate(code).catch(() => {});
  },
  press: ({ tab, key }) => tabs[tab].page.keyboard.press(key),
  type: ({ tab, text }) => tabs[tab].page.keyboard.type(text),
  size: ({ tab, width, height }) => tabs[tab].page.setViewportSize({ width, height }),
  front: ({ tab }) => tabs[tab].page.bringToFront(),
  close: ({ tab }) => tabs[tab].page.close(),
  // Requests for a path get no answer at all, as behind a proxy that holds back what does not end.
  block: ({ tab, path }) =>
    tabs[tab].page.route(
      (url) => url.pathname === path,
      () => {},
    ),
  // Requests for a path with this token are refused.
  refuse: ({ tab, path, token }) =>
    tabs[tab].page.route(
      (url) => url.pathname === path,
      async (route) => {
        const isBad = (await route.request().headerValue("authorization")) === `Bearer ${token}`;
        await (isBad ? route.fulfill({ status: 401, json: {} }) : route.continue());
      },
    ),
  allow: ({ tab }) => tabs[tab].page.unrouteAll({ behavior: "ignoreErrors" }),
  troubles: ({ tab }) => tabs[tab].troubles,
};

console.log(JSON.stringify({ is: "ready" }));
for await (const line of createInterface({ input: process.stdin })) {
  const { do: verb, ...rest } = JSON.parse(line);
  try {
    console.log(JSON.stringify({ is: (await verbs[verb](rest)) ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
const session = await connected.newBrowserCDPSession();
await session.send("Browser.close").catch(() => browser.kill("SIGKILL"));
await ended;
// Some of its processes may take a moment longer, and write.
await rm(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
process.exit();
