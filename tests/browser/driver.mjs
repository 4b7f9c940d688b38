// Chromium, driven by lines of JSON: {"do": …} in, {"is": …} or {"error": …} out.
// Tabs are numbers. What a page complains of is kept, for "troubles".
import { spawn } from "node:child_process";
import {
  accessSync,
  constants,
  existsSync,
  mkdtempSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../clients/", import.meta.url));
const { chromium } = require("playwright-core");

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
  "--disable-dev-shm-usage", // which is small in a container
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
  "--remote-debugging-port=0",
  `--user-data-dir=${profile}`,
  ...process.argv.slice(2),
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
const root = await connected.newBrowserCDPSession();
const tabs = [];

async function openWindow() {
  const opened = context.waitForEvent("page");
  const window = { url: "about:blank", newWindow: true };
  await root.send("Target.createTarget", window);
  return opened;
}

async function devtools(tab) {
  const { page } = tabs[tab];
  return (tabs[tab].session ??= await context.newCDPSession(page));
}

const verbs = {
  // A tab in front, or a window of its own: that one is seen beside others.
  async open({ url, isWindow }) {
    const page = isWindow ? await openWindow() : await context.newPage();
    const tab = { page, troubles: [] };
    page.on("console", (message) => {
      if (message.type() === "error") tab.troubles.push(message.text());
    });
    page.on("pageerror", (error) => tab.troubles.push(String(error)));
    tabs.push(tab);
    await page.goto(url);
    return tabs.length - 1;
  },
  async go({ tab, url }) {
    await tabs[tab].page.goto(url);
  },
  async eval({ tab, code }) {
    const { page } = tabs[tab];
    for (;;) {
      try {
        return await page.evaluate(code);
      } catch (error) {
        // The page is being loaded anew: ask that one.
        const isLoading = /because of a navigation|context was destroyed/.test(String(error));
        if (!isLoading) throw error;
        await page.waitForLoadState();
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
  // {colorScheme: "dark", reducedMotion: "reduce"}
  media: ({ tab, ...media }) => tabs[tab].page.emulateMedia(media),
  // When what moves has come to rest.
  async picture({ tab, path }) {
    const session = await devtools(tab);
    // As on a phone, and many a computer.
    await session.send("Emulation.setScrollbarsHidden", { hidden: true });
    await tabs[tab].page.evaluate("new Promise((done) => setTimeout(done, 1000))");
    const arriving = "Promise.allSettled(document.getAnimations().map((it) => it.finished))";
    await tabs[tab].page.evaluate(`${arriving}.then(() => {})`);
    const options = { format: "webp", quality: 88 };
    const { data } = await session.send("Page.captureScreenshot", options);
    writeFileSync(path, Buffer.from(data, "base64"));
  },
  // What a page holds when all is thrown away that nobody needs: bytes, nodes, listeners.
  async weigh({ tab }) {
    const session = await devtools(tab);
    await session.send("HeapProfiler.collectGarbage");
    await session.send("Performance.enable");
    const { metrics } = await session.send("Performance.getMetrics");
    const value = (name) => metrics.find((it) => it.name === name).value;
    return {
      heap: value("JSHeapUsedSize"),
      nodes: value("Nodes"),
      listeners: value("JSEventListeners"),
    };
  },
  // What axe-core has to say against a page: rule, impact and where.
  async judge({ tab }) {
    const { page } = tabs[tab];
    await page.evaluate(readFileSync(require.resolve("axe-core/axe.min.js"), "utf8"));
    const { violations } = await page.evaluate("axe.run()");
    return violations.map(({ id, impact, nodes }) => {
      const places = nodes.map(({ target, failureSummary }) => `${target}: ${failureSummary}`);
      return `${id} (${impact}): ${places.join("; ")}`;
    });
  },
  grant: ({ origin, permissions }) => context.grantPermissions(permissions, { origin }),
  front: ({ tab }) => tabs[tab].page.bringToFront(),
  close: ({ tab }) => tabs[tab].page.close(),
  // Requests for a path get no answer at all, as behind a proxy that holds back what does not end.
  block: ({ tab, path }) =>
    tabs[tab].page.route(
      (url) => url.pathname === path,
      () => {},
    ),
  // Requests for a path are answered by somebody else.
  answer: ({ tab, path, type, body }) =>
    tabs[tab].page.route(
      (url) => url.pathname === path,
      (route) => route.fulfill({ status: 200, contentType: type, body }),
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
await root.send("Browser.close").catch(() => browser.kill("SIGKILL"));
await ended;
// Some of its processes may take a moment longer, and write.
await rm(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
process.exit();
