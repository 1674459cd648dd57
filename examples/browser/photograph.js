// Steps 1 and 2 of the rule: a file's first frame, upright, without its color profile, as 8-bit RGB over white.
// Browsers multiply colors by their transparency on the way; so a half-transparent pixel may differ by a level from what
// Python gives. So may a JPEG's, where the browser's decoder differs from Pillow's. PNG and WebP without loss do not.

const MAX_PIXELS = 2 ** 27;

/** @returns {Promise<{data: Uint8Array, width: number, height: number}>} RGB, row by row. */
export async function readPhotograph(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch {
    throw new Error(`${file.name ?? "file"}: got no image that this browser reads; expected PNG, JPEG or WebP`);
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new Error(`got ${width}×${height} pixels; expected at most ${MAX_PIXELS}`);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return overWhite(context.getImageData(0, 0, width, height));
}

function overWhite({ data: rgba, width, height }) {
  const data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const alpha = rgba[from + 3];
    for (let channel = 0; channel < 3; channel++, to++) {
      data[to] = Math.floor((rgba[from + channel] * alpha + 255 * (255 - alpha)) / 255 + 0.5);
    }
  }
  return { data, width, height };
}
