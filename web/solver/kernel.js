/**
 * The passes over the vocabulary: WebAssembly where the browser has SIMD, plain JavaScript where not.
 * Both work on byte offsets into one buffer, so that shard.js need not know which it has.
 *
 * @typedef {object} Kernel
 * @property {string} name
 * @property {ArrayBuffer} buffer
 * @property {(rows: number, scale: number, n: number, stride: number, vector: number,
 *   offset: number, work: number, out: number) => void} project
 * @property {(a: number, b: number, p: number, n: number, out: number) => void} jointMoments
 * @property {(a: number, b: number, p: number, scale: number, n: number, cos: number, sin: number,
 *   ratio: number, g: number) => number} advance
 * @property {(rows: number, g: number, n: number, stride: number, work: number, out: number) => void}
 *   accumulate
 */

const PAGE = 65536;

/**
 * @param {number} bytes that the caller will lay out
 * @param {Uint8Array | null} wasm the compiled kernel.ts; null for plain JavaScript
 * @returns {Kernel}
 */
export function createKernel(bytes, wasm) {
  if (wasm && typeof WebAssembly === "object" && WebAssembly.validate(wasm)) {
    const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / PAGE) });
    const instance = new WebAssembly.Instance(new WebAssembly.Module(wasm), { env: { memory } });
    return { name: "WebAssembly", buffer: memory.buffer, ...instance.exports };
  }
  return plainKernel(new ArrayBuffer(bytes));
}

/**
 * kernel.ts, function by function, nothing rounded; see there for what each computes.
 * @param {ArrayBuffer} buffer
 * @returns {Kernel}
 */
function plainKernel(buffer) {
  const floats = (offset, n) => new Float32Array(buffer, offset, n);

  function project(rows, scale, n, stride, vector, offset, _, out) {
    const [u, scales, v, result] = [
      new Int8Array(buffer, rows, n * stride), floats(scale, n), floats(vector, stride), floats(out, n),
    ];
    for (let i = 0, k = 0; i < n; i++) {
      let dot = 0;
      for (let j = 0; j < stride; j++, k++) dot += u[k] * v[j];
      result[i] = scales[i] * dot - offset;
    }
  }

  function jointMoments(a, b, p, n, out) {
    const [as, bs, ps] = [floats(a, n), floats(b, n), floats(p, n)];
    const sums = new Float64Array(buffer, out, 8).fill(0);
    for (let i = 0; i < n; i++) {
      const xx = as[i] * as[i], xy = as[i] * bs[i], yy = bs[i] * bs[i];
      const pxx = ps[i] * xx, pyy = ps[i] * yy;
      sums[0] += pxx;
      sums[1] += ps[i] * xy;
      sums[2] += pyy;
      sums[3] += pxx * xx;
      sums[4] += pxx * xy;
      sums[5] += pxx * yy;
      sums[6] += pyy * xy;
      sums[7] += pyy * yy;
    }
  }

  function advance(a, b, p, scale, n, cos, sin, ratio, g) {
    const [as, bs, ps, scales, gs] = [a, b, p, scale, g].map((offset) => floats(offset, n));
    let third = 0;
    for (let i = 0; i < n; i++) {
      const x = cos * as[i] + sin * bs[i];
      const slope = ps[i] * (x * x - ratio) * x;
      as[i] = x;
      gs[i] = slope * scales[i];
      third += slope;
    }
    return third;
  }

  function accumulate(rows, g, n, stride, work, out) {
    const [u, gs] = [new Int8Array(buffer, rows, n * stride), floats(g, n)];
    const sums = new Float64Array(buffer, out, stride).fill(0);
    for (let i = 0, k = 0; i < n; i++) {
      for (let j = 0; j < stride; j++, k++) sums[j] += gs[i] * u[k];
    }
  }

  return { name: "JavaScript", buffer, project, jointMoments, advance, accumulate };
}
