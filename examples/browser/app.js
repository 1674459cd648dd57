// The page: a photograph, its tokens, and what they decode to.

import { openFolder, openPacked } from "./bundle.js";
import { readPhotograph } from "./photograph.js";
import { prepare } from "./resize.js";
import { bestDevice, Tokenizer } from "./tokenizer.js";

const CELL = 12; // pixels of the grid's canvas to a token
const $ = (id) => document.getElementById(id);
const settings = new URLSearchParams(location.search);

/** What is on the page. `tokens` are those that are decoded, `original` those of the photograph. */
const state = { bundle: null, tokenizer: null, pixels: null, original: null, tokens: null, cell: 0 };

function say(message, failed = false) {
  $("status").textContent = message;
  $("status").classList.toggle("error", failed);
}

/** Work goes on one piece at a time, in the order it was asked for; a failure is shown, and the next piece goes on. */
let queue = Promise.resolve();
function inTurn(work) {
  queue = queue.then(work).catch((error) => say(error.message, true));
  return queue;
}

async function timed(work) {
  const started = performance.now();
  return [await work(), performance.now() - started];
}

async function useBundle(open) {
  say("Loading the bundle …");
  state.bundle = await open();
  await useDevice();
}

async function useDevice() {
  const wanted = $("device").value;
  const device = wanted === "auto" ? await bestDevice() : wanted;
  const [tokenizer, ms] = await timed(() => Tokenizer.load(state.bundle, device));
  state.tokenizer = tokenizer;
  const [h, w] = tokenizer.grid;
  $("size").textContent = `${tokenizer.width}×${tokenizer.height} pixels`;
  $("grid-size").textContent = `${w}×${h} of ${tokenizer.codebookSize} codes`;
  $("token").max = tokenizer.codebookSize - 1;
  resizeCanvases();
  say(`${tokenizer.manifest.name} on ${device === "webgpu" ? "WebGPU" : "WASM"}, loaded in ${Math.round(ms)} ms.`);
  if (state.photograph) await tokenize();
}

function resizeCanvases() {
  const { width, height, grid } = state.tokenizer;
  for (const id of ["image", "reconstruction"]) Object.assign($(id), { width, height });
  Object.assign($("tokens"), { width: grid[1] * CELL, height: grid[0] * CELL });
}

async function useFile(file) {
  state.photograph = await readPhotograph(file);
  await tokenize();
}

async function tokenize() {
  const { tokenizer } = state;
  if (!tokenizer) throw new Error("got a photograph, but no bundle to tokenize it with");
  state.pixels = prepare(state.photograph, tokenizer.height, tokenizer.width);
  draw("image", state.pixels);
  const [tokens, encodeMs] = await timed(() => tokenizer.encode(state.pixels));
  Object.assign(state, { original: tokens, tokens: Int32Array.from(tokens), cell: 0 });
  choose(tokens[0]);
  const decodeMs = await reconstruct();
  say(`${tokenizer.manifest.name}: encoded in ${Math.round(encodeMs)} ms, decoded in ${Math.round(decodeMs)} ms.`);
}

async function reconstruct() {
  const [pixels, ms] = await timed(() => state.tokenizer.decode(state.tokens));
  state.decoded = pixels;
  draw("reconstruction", pixels);
  drawTokens();
  $("quality").textContent = `${psnr(pixels, state.pixels).toFixed(1)} dB`;
  const changed = state.tokens.filter((token, cell) => token !== state.original[cell]).length;
  $("changes").textContent = changed === 0 ? "No token changed." : `${changed} of ${state.tokens.length} tokens changed.`;
  $("undo").disabled = changed === 0;
  return ms;
}

function psnr(one, other) {
  const squares = one.reduce((sum, value, place) => sum + (value - other[place]) ** 2, 0);
  return 10 * Math.log10(255 ** 2 / (squares / one.length));
}

function draw(id, rgb) {
  const { width, height } = $(id);
  const rgba = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let channel = 0; channel < 3; channel++) rgba[4 * pixel + channel] = rgb[3 * pixel + channel];
  }
  $(id).getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
}

/** Equal tokens have equal colors; which color says nothing. Changed ones have a white rim, the cursor a black one too. */
function drawTokens() {
  const context = $("tokens").getContext("2d");
  const columns = state.tokenizer.grid[1];
  state.tokens.forEach((token, cell) => {
    const [x, y] = [(cell % columns) * CELL, Math.floor(cell / columns) * CELL];
    context.fillStyle = `hsl(${(token * 137.508) % 360} ${45 + ((token * 7) % 40)}% ${35 + ((token * 13) % 35)}%)`;
    context.fillRect(x, y, CELL, CELL);
    if (token !== state.original[cell]) rim(context, "white", x, y, 1);
    if (cell === state.cell) {
      rim(context, "black", x, y, 1);
      rim(context, "white", x, y, 2);
    }
  });
}

function rim(context, color, x, y, inset) {
  context.strokeStyle = color;
  context.strokeRect(x + inset - 0.5, y + inset - 0.5, CELL - 2 * inset + 1, CELL - 2 * inset + 1);
}

function choose(token) {
  $("token").value = token;
}

/** The chosen token, or null where the field holds none of the codebook. */
function chosen() {
  const token = Number($("token").value);
  const valid = $("token").value !== "" && Number.isInteger(token) && token >= 0 && token < state.tokenizer.codebookSize;
  $("token").setCustomValidity(valid ? "" : `a whole number from 0 to ${state.tokenizer.codebookSize - 1}`);
  $("token").reportValidity();
  return valid ? token : null;
}

/** Put the chosen token into a cell. Several changes that wait are decoded as one. */
let decoding = false;
function paint(cell) {
  const token = chosen();
  if (token === null) return;
  state.cell = cell;
  state.tokens[cell] = token;
  drawTokens();
  if (decoding) return;
  decoding = true;
  inTurn(async () => {
    decoding = false;
    await reconstruct();
  });
}

function touch(cell) {
  if (document.querySelector("input[name=mode]:checked").value === "paint") return paint(cell);
  state.cell = cell;
  choose(state.tokens[cell]);
  drawTokens();
}

function cellAt(event) {
  const box = $("tokens").getBoundingClientRect();
  const [rows, columns] = state.tokenizer.grid;
  const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
  const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
  return Math.min(Math.max(row, 0), rows - 1) * columns + Math.min(Math.max(column, 0), columns - 1);
}

function moveCursor(event) {
  const [rows, columns] = state.tokenizer.grid;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (step) {
    const cell = state.cell + step;
    if (cell >= 0 && cell < rows * columns) state.cell = cell;
    drawTokens();
  } else if (event.key === "Enter") paint(state.cell);
  else return;
  event.preventDefault();
}

/** What to do with a chosen file; the field forgets it, so that the same one can be chosen again. */
function onChoice(id, use) {
  $(id).addEventListener("change", ({ target }) => {
    const [file] = target.files;
    target.value = "";
    if (file) inTurn(() => use(file));
  });
}

onChoice("photograph", useFile);
onChoice("packed", (file) => useBundle(() => openPacked(file)));
$("device").addEventListener("change", () => state.bundle && inTurn(useDevice));
$("token").addEventListener("change", () => state.tokens && paint(state.cell));
$("undo").addEventListener("click", () => {
  state.tokens = Int32Array.from(state.original);
  inTurn(reconstruct);
});
$("tokens").addEventListener("pointerdown", (event) => state.tokens && touch(cellAt(event)));
$("tokens").addEventListener("pointermove", (event) => state.tokens && event.buttons === 1 && touch(cellAt(event)));
$("tokens").addEventListener("keydown", (event) => state.tokens && moveCursor(event));
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    const [file] = (kind === "drop" && event.dataTransfer.files) || [];
    if (file) inTurn(() => useFile(file));
  });
}

if (settings.has("device")) $("device").value = settings.get("device");
inTurn(() => useBundle(() => openFolder(settings.get("bundle") ?? "bundle/")));

export { state }; // for the page's test, and for a console
