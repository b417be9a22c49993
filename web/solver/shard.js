import { createKernel } from "./kernel.js";

const HEADER = 1024; // AssemblyScript keeps the first bytes of the memory to itself
/** Bins of a frame on each side of 0. */
export const REACH = 240;
/** Rows that the kernel sums at a time: kernel.ts has the same number. */
const BLOCK = 256;
/** Tokens of a frame on each side. */
const N_NAMED = 6;

/**
 * Some of the vocabulary's tokens, and what the solver keeps for each: logits a of the current
 * point, logits b of the direction, sample weights p. One shard lives in each worker.
 *
 * Sums that it returns are partial: the caller adds up those of all shards.
 */
export class Shard {
  /**
   * @param {{rows: Int8Array, scale: Float32Array, dModel: number, stride: number,
   *   wasm: Uint8Array | null}} part
   */
  constructor({ rows, scale, dModel, stride, wasm }) {
    this.n = scale.length;
    this.dModel = dModel;
    this.stride = stride;
    let end = HEADER;
    const place = (bytes) => {
      const offset = end;
      end = Math.ceil((end + bytes) / 16) * 16;
      return offset;
    };
    this.at = {
      scale: place(4 * this.n),
      p: place(4 * this.n),
      a: place(4 * this.n),
      b: place(4 * this.n),
      g: place(4 * this.n),
      vector: place(4 * stride),
      work: place(Math.max(2 * stride, 4 * BLOCK)),
      sums: place(8 * Math.max(stride, 8)),
      rows: place(this.n * stride),
    };
    this.kernel = createKernel(end, wasm);
    new Int8Array(this.kernel.buffer, this.at.rows, rows.length).set(rows);
    this._floats("scale").set(scale);
  }

  /** Takes sample weights p (they need not sum to 1 within a shard); returns the sum of p U. */
  sample(p) {
    this._floats("p").set(p);
    const [g, scale] = [this._floats("g"), this._floats("scale")];
    for (let i = 0; i < this.n; i++) g[i] = p[i] * scale[i];
    return this._accumulated();
  }

  /** The logits of a vector, neither centred nor weighted. */
  logits(vector) {
    this._project(vector, 0, this.at.b);
    return this._floats("b").slice();
  }

  /** Begins at the vector s; returns the sums of p a^2 and p a^4. */
  begin(s, offset) {
    this._project(s, offset, this.at.a);
    this._floats("b").fill(0);
    const moments = this._moments();
    return Float64Array.of(moments[0], moments[3]);
  }

  /**
   * The sum of side p U over the tokens whose logits are beyond `least` on that side, 1 or -1, and,
   * last, the sum of side p.
   */
  towardsTail(side, least) {
    const [a, p, g, scale] = ["a", "p", "g", "scale"].map((name) => this._floats(name));
    let total = 0;
    for (let i = 0; i < this.n; i++) {
      const weight = side * a[i] > least ? side * p[i] : 0;
      g[i] = weight * scale[i];
      total += weight;
    }
    return this._accumulated(total);
  }

  /** The eight joint moments of a and of the direction's logits b. */
  along(direction, offset) {
    this._project(direction, offset, this.at.b);
    return this._moments();
  }

  /** Moves by the angle; returns the gradient (d_model values) and, last, the third moment. */
  advance(cos, sin, ratio) {
    const { a, b, p, scale, g } = this.at;
    return this._accumulated(this.kernel.advance(a, b, p, scale, this.n, cos, sin, ratio, g));
  }

  /**
   * What there is to see at the current point: how many tokens are in each bin of z-scores, and the
   * furthest ones on each side.
   */
  frame(deviation, bin) {
    const a = this._floats("a");
    const bins = new Float64Array(2 * REACH);
    const ends = [[], []];
    for (let i = 0; i < this.n; i++) {
      const z = a[i] / deviation;
      const at = Math.floor(z / bin) + REACH;
      bins[Math.min(Math.max(at, 0), 2 * REACH - 1)]++;
      const far = ends[z < 0 ? 1 : 0];
      if (far.length === N_NAMED && !(Math.abs(z) > Math.abs(far.at(-1)[1]))) continue;
      far.push([i, z]);
      far.sort((x, y) => Math.abs(y[1]) - Math.abs(x[1]));
      if (far.length > N_NAMED) far.pop();
    }
    return { bins, far: ends.flat() };
  }

  _floats(name) {
    return new Float32Array(this.kernel.buffer, this.at[name], this.n);
  }

  _project(vector, offset, out) {
    new Float32Array(this.kernel.buffer, this.at.vector, this.stride).fill(0).set(vector);
    const { rows, scale, vector: v, work } = this.at;
    this.kernel.project(rows, scale, this.n, this.stride, v, offset, work, out);
  }

  _moments() {
    const { a, b, p, sums } = this.at;
    this.kernel.jointMoments(a, b, p, this.n, sums);
    return new Float64Array(this.kernel.buffer, sums, 8).slice();
  }

  /** The sum of g over rows, and what else is to be summed. */
  _accumulated(...more) {
    const { rows, g, work, sums } = this.at;
    this.kernel.accumulate(rows, g, this.n, this.stride, work, sums);
    return Float64Array.of(...new Float64Array(this.kernel.buffer, sums, this.dModel), ...more);
  }
}
