// Opens the built site in Chromium: start page, search, one page of a method; fails on any error of the console.
//
//   npm install --prefix build/browser @sparticuz/chromium puppeteer-core
//   node tools/site/check.mjs build/docs build/browser [folder for screenshots]

import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { extname, join, resolve } from "node:path";

const [site, modules, pictures] = process.argv.slice(2).map((path) => resolve(path));
const require = createRequire(join(modules, "package.json"));
const load = async (name) => (await import(require.resolve(name))).default;
const chromium = await load("@sparticuz/chromium");
const puppeteer = await load("puppeteer-core");

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".png": "image/png", ".svg": "image/svg+xml" };
const server = createServer((request, response) => {
  const path = join(site, decodeURIComponent(new URL(request.url, "http://site").pathname));
  const file = existsSync(path) && statSync(path).isDirectory() ? join(path, "index.html") : path;
  if (!file.startsWith(site) || !existsSync(file)) return response.writeHead(404).end();
  response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream" });
  createReadStream(file).pipe(response);
}).listen(0, "127.0.0.1");
await new Promise((done) => server.once("listening", done));
const at = `http://127.0.0.1:${server.address().port}`;

const browser = await puppeteer.launch({ executablePath: await chromium.executablePath(), args: chromium.args, headless: "shell" });
const page = await browser.newPage();
await page.setViewport({ width: 1280, height: 900 });
const errors = [];
page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
page.on("pageerror", (error) => errors.push(String(error)));
page.on("requestfailed", (request) => errors.push(`${request.url()}: ${request.failure().errorText}`));
page.on("response", (answer) => answer.status() >= 400 && errors.push(`${answer.status()} ${answer.url()}`));

async function look(path, name, expected) {
  await page.goto(`${at}/${path}`, { waitUntil: "networkidle0" });
  const text = await page.evaluate(() => document.body.innerText);
  for (const words of expected) if (!text.includes(words)) errors.push(`${path} lacks "${words}"`);
  if (pictures) await page.screenshot({ path: join(pictures, `${name}.png`) });
}

await look("index.html", "start", ["configure instead of writing", "Where to go"]);
await look("methods/mochi.html", "method", ["Hard Negative Mixing", "What tests hold", "Numbers"]);
await look("reference/optimizer.html", "reference", ["optimizer.lr_per_256"]);
await page.goto(`${at}/search.html?q=hard+negatives`, { waitUntil: "networkidle0" });
await page.waitForFunction(() => document.querySelectorAll("#search-results li a").length > 3, { timeout: 20_000 });
const found = await page.evaluate(() => [...document.querySelectorAll("#search-results li a")].map((a) => a.textContent));
if (pictures) await page.screenshot({ path: join(pictures, "search.png") });

await browser.close();
server.close();
console.log(`${found.length} results for "hard negatives", such as ${found.slice(0, 3).join(", ")}`);
if (errors.length) {
  console.error(errors.join("\n"));
  process.exit(1);
}
console.log("no error");
