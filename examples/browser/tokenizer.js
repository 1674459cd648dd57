// Images to tokens and back, in this browser: the graphs of a bundle on onnxruntime-web.

/** onnxruntime-web for a device, and the providers to run on; the files lie in this page's own folder. */
async function runtime(device) {
  const home = "./node_modules/onnxruntime-web/dist/";
  const ort = await import(device === "webgpu" ? `${home}ort.webgpu.bundle.min.mjs` : `${home}ort.wasm.bundle.min.mjs`);
  ort.env.wasm.wasmPaths = new URL(home, import.meta.url).href;
  // Threads need a page that its server isolates; without that, asking for them only fills the console.
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  return { ort, providers: device === "webgpu" ? ["webgpu", "wasm"] : ["wasm"] };
}

/** `webgpu` where the browser offers an adapter, else `wasm`. */
export async function bestDevice() {
  return (await navigator.gpu?.requestAdapter()) ? "webgpu" : "wasm";
}

export class Tokenizer {
  /** Load the graphs of a bundle, every hash checked; `device` is `wasm` or `webgpu`, and never replaced by the other. */
  static async load(bundle, device) {
    const { ort, providers } = await runtime(device);
    const session = async (name) => {
      const graph = bundle.manifest.graphs[name];
      if (!graph) throw new Error(`got no graph ${name}; export the bundle again`);
      const externalData = await Promise.all(
        (graph.extra_files ?? []).map(async (path) => ({ path, data: await bundle.file(path) })),
      );
      const options = { executionProviders: providers, graphOptimizationLevel: "all", logSeverityLevel: 3, externalData };
      return ort.InferenceSession.create(await bundle.file(graph.file), options);
    };
    return new Tokenizer(bundle.manifest, ort, device, await session("encode"), await session("decode"));
  }

  constructor(manifest, ort, device, encoder, decoder) {
    Object.assign(this, { manifest, ort, device, encoder, decoder });
    this.grid = manifest.tokens.grid;
    this.codebookSize = manifest.tokens.codebook_size;
    this.height = manifest.preprocessing.height;
    this.width = manifest.preprocessing.width;
  }

  /** RGB bytes (height, width, 3) to an Int32Array of tokens (h, w), row by row. */
  async encode(pixels) {
    const images = new this.ort.Tensor("uint8", pixels, [1, this.height, this.width, 3]);
    const { indices } = await this.encoder.run({ images }, ["indices"]);
    return Int32Array.from(await indices.getData());
  }

  /** Tokens (h, w) to RGB bytes (height, width, 3). */
  async decode(tokens) {
    const indices = new this.ort.Tensor("int32", Int32Array.from(tokens), [1, ...this.grid]);
    const { images } = await this.decoder.run({ indices }, ["images"]);
    return Uint8Array.from(await images.getData());
  }
}
