import { Shard } from "./shard.js";

/**
 * The vocabulary, spread over lanes: this thread's own, and those of workers that it has ports of.
 *
 * @typedef {import("./pack.js").Pack} Pack
 */
export class Backend {
  /**
   * @param {Pack} pack
   * @param {{wasm?: Uint8Array | null, others?: import("./calls.js").Calls[]}} options
   */
  static async create(pack, { wasm = null, others = [] } = {}) {
    const { rows, scale, dModel, stride, dVocab, weights, curvature } = pack;
    // Copies, so that the file's buffer, which all are views of, can go.
    const { values, vectors } = curvature;
    const own = { dVocab, weights: weights.slice(), curvature: { values: values.slice(), vectors: vectors.slice() } };
    const backend = new Backend(own, others);
    const names = await backend._all("load", (from, to) => [
      { rows: rows.slice(from * stride, to * stride), scale: scale.slice(from, to), dModel, stride, wasm },
    ]);
    const where = others.length ? `${others.length + 1} workers` : "no worker";
    /** What computes, in words. */
    backend.name = `${names[0]}, ${where}`;
    return backend;
  }

  constructor(pack, others) {
    this.pack = pack;
    // Its own comes last: while it computes, the others do. Alone, it makes pauses.
    this.lanes = [...others, new OwnLane(others.length === 0)];
    const n = this.lanes.length;
    this.bounds = Array.from({ length: n + 1 }, (_, i) => Math.round((i * pack.dVocab) / n));
  }

  /** @returns {Promise<Float64Array>} the sum of p U over all tokens: the mean vector */
  sample(p) {
    return this._sum("sample", (from, to) => [p.slice(from, to)]);
  }

  /** @returns {Promise<Float32Array>} logits of a vector, one per token */
  async logits(vector) {
    const parts = await this._all("logits", () => [Float32Array.from(vector)]);
    const logits = new Float32Array(this.pack.dVocab);
    parts.forEach((part, i) => logits.set(part, this.bounds[i]));
    return logits;
  }

  begin(s, offset) {
    return this._sum("begin", () => [Float32Array.from(s), offset]);
  }

  towardsTail(side, least) {
    return this._sum("towardsTail", () => [side, least]);
  }

  along(direction, offset) {
    return this._sum("along", () => [Float32Array.from(direction), offset]);
  }

  advance(cos, sin, ratio) {
    return this._sum("advance", () => [cos, sin, ratio]);
  }

  /**
   * The histogram of the current point and its furthest tokens, furthest first.
   *
   * @param {number} deviation standard deviation of the logits there
   * @param {number} bin width of a bin, in standard deviations
   */
  async frame(deviation, bin) {
    const parts = await this._all("frame", () => [deviation, bin]);
    const bins = parts[0].bins.map((_, i) => parts.reduce((sum, part) => sum + part.bins[i], 0));
    const far = parts.flatMap((part, lane) => part.far.map(([i, z]) => [this.bounds[lane] + i, z]));
    return { bins, far: far.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])) };
  }

  _all(method, argsOf) {
    return Promise.all(
      this.lanes.map((lane, i) => {
        const args = argsOf(this.bounds[i], this.bounds[i + 1]);
        const moved = method === "load" ? [args[0].rows.buffer, args[0].scale.buffer] : [];
        return lane.call(method, args, { moved });
      }),
    );
  }

  async _sum(method, argsOf) {
    const [first, ...rest] = await this._all(method, argsOf);
    for (const part of rest) part.forEach((value, i) => (first[i] += value));
    return first;
  }
}

/** A shard of the thread's own. */
export class OwnLane {
  /** @param {boolean} pauses lets the thread do something else between two calls, such as draw */
  constructor(pauses = false) {
    this.pauses = pauses;
  }

  async call(method, args) {
    if (this.pauses) await new Promise((resolve) => setTimeout(resolve, 0));
    if (method !== "load") return this.shard[method](...args);
    this.shard = new Shard(...args);
    return this.shard.kernel.name;
  }
}
