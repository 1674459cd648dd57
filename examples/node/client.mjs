// A PNG to tokens: `cd examples/node && npm install --ignore-scripts`, then `node client.mjs BUNDLE photo.png`.
// Prints the tokens as JSON, row by row. The bundle is one for ONNX Runtime; `resize.js` is the browser page's.

import { readFileSync } from "node:fs";
import { PNG } from "pngjs";
import { prepare } from "../browser/resize.js";

process.env.ORT_DISABLE_TELEMETRY ??= "1"; // has to be set before the library is loaded
const { InferenceSession, Tensor } = await import("onnxruntime-node");

const [bundle, photograph] = process.argv.slice(2);
const { preprocessing } = JSON.parse(readFileSync(`${bundle}/manifest.json`));
const png = PNG.sync.read(readFileSync(photograph)); // RGBA; what is transparent has to be laid over white before
const image = { data: png.data.filter((_, place) => place % 4 !== 3), width: png.width, height: png.height };
const pixels = prepare(image, preprocessing.height, preprocessing.width);
const session = await InferenceSession.create(`${bundle}/encode.onnx`);
const images = new Tensor("uint8", pixels, [1, preprocessing.height, preprocessing.width, 3]);
const { indices } = await session.run({ images }, ["indices"]);
console.log(JSON.stringify(Array.from(indices.data)));
