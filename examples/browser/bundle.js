// A bundle, from a folder on this page's own server or from a packed file that the user picks. What it promises is checked
// before it is used: the rules are those of the page "The bundle format".

import { RULE } from "./resize.js";

const BLOCK = 512;
const MAX_MANIFEST_BYTES = 4 * 2 ** 20;

/** A bundle whose files lie below `url`. */
export async function openFolder(url) {
  const base = new URL(url.endsWith("/") ? url : `${url}/`, document.baseURI);
  const read = async (path) => {
    const answer = await fetch(new URL(path.split("/").map(encodeURIComponent).join("/"), base));
    if (!answer.ok) throw new Error(`${base.pathname}${path}: got status ${answer.status}; expected a bundle's file`);
    return new Uint8Array(await answer.arrayBuffer());
  };
  return new Bundle(parseManifest(await read("manifest.json")), read);
}

/** A bundle that `vqrae pack` packed: a header of 512 bytes before each file, in the manifest's order. */
export async function openPacked(file) {
  const size = parseInt(await text(file.slice(124, 135)), 8);
  if (!(await text(file.slice(0, 14))).startsWith("manifest.json\0") || !(size <= MAX_MANIFEST_BYTES)) {
    throw new Error(`${file.name}: got another file; expected a packed bundle, made by \`vqrae pack\``);
  }
  const manifest = parseManifest(new Uint8Array(await file.slice(BLOCK, BLOCK + size).arrayBuffer()));
  const starts = new Map();
  let end = BLOCK + filled(size);
  for (const entry of manifest.files) {
    starts.set(entry.path, end + BLOCK);
    end += BLOCK + filled(entry.size);
  }
  const sizes = new Map(manifest.files.map((entry) => [entry.path, entry.size]));
  const read = async (path) =>
    new Uint8Array(await file.slice(starts.get(path), starts.get(path) + sizes.get(path)).arrayBuffer());
  return new Bundle(manifest, read);
}

class Bundle {
  #read;

  constructor(manifest, read) {
    this.manifest = manifest;
    this.#read = read;
  }

  /** The bytes of a listed file, its size and SHA-256 checked. */
  async file(path) {
    const entry = this.manifest.files.find((one) => one.path === path);
    if (!entry) throw new Error(`${path}: got a file that the manifest does not list`);
    const content = await this.#read(path);
    if (!globalThis.crypto?.subtle) throw new Error("hashes cannot be checked here: open the page by https or on localhost");
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (content.length !== entry.size || found !== entry.sha256) {
      throw new Error(`${path}: got other bytes than the manifest lists; export the bundle again`);
    }
    return content;
  }
}

function parseManifest(bytes) {
  if (bytes.length > MAX_MANIFEST_BYTES) throw new Error("manifest.json: too large");
  const manifest = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  const refuse = (field, got, expected) => {
    throw new Error(`manifest.json field ${field}: got ${got}; expected ${expected}`);
  };
  if (manifest.format !== "vqrae-bundle") refuse("format", manifest.format, "vqrae-bundle");
  if (!/^1\.\d{1,4}$/.test(manifest.format_version)) refuse("format_version", manifest.format_version, "1.x");
  if (manifest.runtime.name !== "onnxruntime") {
    refuse("runtime.name", manifest.runtime.name, "onnxruntime; export with --format onnx");
  }
  if (manifest.preprocessing.rule !== RULE) refuse("preprocessing.rule", manifest.preprocessing.rule, RULE);
  return manifest;
}

const filled = (size) => Math.ceil(size / BLOCK) * BLOCK;
const text = async (blob) => new TextDecoder("latin1").decode(await blob.arrayBuffer());
