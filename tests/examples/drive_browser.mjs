// Uses the page as a person would, and prints what came of it as JSON. Copied beside the page, whose packages it uses.
// node drive_browser.mjs CHROMIUM OPTIONS URL PACKED SCREENSHOTS PHOTOGRAPH...

import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [executablePath, options, url, packed, screenshots, ...photographs] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: JSON.parse(options) });
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
page.setDefaultTimeout(60_000);
const found = { console: [], elsewhere: [], photographs: [] };
page.on("console", (message) => found.console.push(message.text()));
page.on("pageerror", (error) => found.console.push(String(error)));
page.on("request", (request) => {
  const local = request.url().startsWith(new URL(url).origin) || /^(data|blob):/.test(request.url());
  if (!local) found.elsewhere.push(request.url());
});

/** Do something, and wait until the status says the word. */
async function until(word, action) {
  await page.evaluate(() => { document.getElementById("status").textContent = ""; });
  await action();
  await page.waitForFunction((w) => {
    const status = document.getElementById("status");
    return status.textContent.includes(w) || status.classList.contains("error");
  }, word);
  return page.textContent("#status");
}

const state = () => page.evaluate(async () => {
  const { state } = await import("./app.js");
  return { pixels: [...state.pixels], tokens: [...state.tokens], decoded: [...state.decoded] };
});

await page.goto(url);
await page.waitForFunction(() => document.getElementById("status").textContent.includes("loaded"));
found.loaded = await page.textContent("#status");
for (const photograph of photographs) {
  await until("encoded", () => page.setInputFiles("#photograph", photograph));
  found.photographs.push(await state());
}

// The first one again, dropped onto the page.
const bytes = readFileSync(photographs[0]).toString("base64");
const dropped = await page.evaluateHandle((base64) => {
  const transfer = new DataTransfer();
  const content = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  transfer.items.add(new File([content], "dropped.png", { type: "image/png" }));
  return transfer;
}, bytes);
await until("encoded", () => page.dispatchEvent("body", "drop", { dataTransfer: dropped }));
found.dropped = await state();
await until("encoded", () => page.setInputFiles("#photograph", photographs.at(-1)));

// Change the token in the middle of the grid, through the grid and the field; then paint its neighbor with a click.
const box = await page.locator("#tokens").boundingBox();
const middle = { x: box.width / 2 + 1, y: box.height / 2 + 1 };
await page.click("#tokens", { position: middle });
found.picked = Number(await page.inputValue("#token"));
await page.fill("#token", "7");
await page.press("#token", "Enter");
await page.waitForFunction(() => document.getElementById("changes").textContent.startsWith("1 of"));
await page.check("input[value=paint]");
const [, columns] = await page.evaluate(async () => (await import("./app.js")).state.tokenizer.grid);
await page.click("#tokens", { position: { x: middle.x + box.width / columns, y: middle.y } });
await page.waitForFunction(() => document.getElementById("changes").textContent.startsWith("2 of"));
found.changed = await state();
await page.screenshot({ path: `${screenshots}/desktop.png`, fullPage: true });
await page.setViewportSize({ width: 390, height: 844 });
found.overflow = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
await page.screenshot({ path: `${screenshots}/phone.png`, fullPage: true });
await page.setViewportSize({ width: 1280, height: 900 });

await page.fill("#token", "99999999");
await page.press("#token", "Enter");
found.invalid = await page.evaluate(() => !document.getElementById("token").checkValidity());
await page.click("#undo");
await page.waitForFunction(() => document.getElementById("changes").textContent.startsWith("No token"));
found.undone = await state();

found.broken = await until("nothing", () => page.setInputFiles("#photograph", {
  name: "broken.png", mimeType: "image/png", buffer: Buffer.from("not an image"),
}));
found.noBundle = await until("nothing", () => page.setInputFiles("#packed", photographs[0]));
found.packed = await until("encoded", () => page.setInputFiles("#packed", packed));
found.fromPacked = await state();

await browser.close();
console.log(JSON.stringify(found));
