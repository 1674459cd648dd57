// The preprocessing rule `bicubic-center-crop/1`, steps 3 and 4: from RGB pixels of any size to the tokenizer's, the same
// bytes as `vqrae.runtimes.preprocess` gives. The page "The bundle format" has the rule in words.

export const RULE = "bicubic-center-crop/1";

const PRECISION_BITS = 22; // Pillow's weights are whole numbers of 2^-22
const ONE = 2 ** PRECISION_BITS;
const SUPPORT = 2; // the cubic is 0 beyond two pixels

/**
 * Apply the rule.
 *
 * @param {{data: Uint8Array, width: number, height: number}} image RGB, row by row.
 * @param {number} height of the result, in pixels.
 * @param {number} width of the result, in pixels.
 * @returns {Uint8Array} RGB (height, width, 3).
 */
export function prepare(image, height, width) {
  const [left, top, right, bottom] = centeredBox(image.width, image.height, width / height).map(Math.fround);
  const whole = left === 0 && top === 0 && right === image.width && bottom === image.height;
  if (whole && image.width === width && image.height === height) return Uint8Array.from(image.data);
  const across = weights(left, right, image.width, width);
  const down = weights(top, bottom, image.height, height);
  const squeezed = resampleRows(image.data, image.width, image.height, across, width);
  return resampleColumns(squeezed, width, down, height);
}

function centeredBox(width, height, aspect) {
  const boxWidth = Math.min(width, height * aspect);
  const boxHeight = Math.min(height, width / aspect);
  const left = (width - boxWidth) / 2;
  const top = (height - boxHeight) / 2;
  return [left, top, left + boxWidth, top + boxHeight];
}

/** The cubic with a = -0.5. */
function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/** For each pixel of the result: where its source pixels start, and their weights in units of 2^-22. */
function weights(from, to, sourceSize, size) {
  const scale = Math.fround(to - from) / size;
  const stretch = Math.max(scale, 1); // antialias: the cubic grows with what it shrinks
  const support = SUPPORT * stretch;
  const inverse = 1 / stretch;
  return Array.from({ length: size }, (_, position) => {
    const center = from + (position + 0.5) * scale;
    const start = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), sourceSize);
    const exact = Float64Array.from({ length: end - start }, (_, k) => cubic((k + start - center + 0.5) * inverse));
    const sum = exact.reduce((total, weight) => total + weight, 0);
    const whole = exact.map((weight) => {
      const share = sum === 0 ? weight : weight / sum;
      return Math.trunc(share * ONE + (share < 0 ? -0.5 : 0.5));
    });
    return { start, whole };
  });
}

function resampleRows(source, sourceWidth, height, across, width) {
  const result = new Uint8ClampedArray(height * width * 3);
  for (let y = 0, out = 0; y < height; y++) {
    for (const { start, whole } of across) {
      const first = (y * sourceWidth + start) * 3;
      for (let channel = 0; channel < 3; channel++, out++) {
        let sum = ONE / 2;
        for (let k = 0; k < whole.length; k++) sum += source[first + 3 * k + channel] * whole[k];
        result[out] = Math.floor(sum / ONE);
      }
    }
  }
  return result;
}

function resampleColumns(source, width, down, height) {
  const result = new Uint8ClampedArray(height * width * 3);
  const row = width * 3;
  for (let y = 0, out = 0; y < height; y++) {
    const { start, whole } = down[y];
    for (let x = 0; x < row; x++, out++) {
      let sum = ONE / 2;
      for (let k = 0; k < whole.length; k++) sum += source[(start + k) * row + x] * whole[k];
      result[out] = Math.floor(sum / ONE);
    }
  }
  return new Uint8Array(result.buffer);
}
