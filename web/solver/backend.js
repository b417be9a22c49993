import { Shard } from "./shard.js";

/**
 * The vocabulary, spread over workers; where a browser has none, kept whole in the page's own thread.
 *
 * @typedef {import("./pack.js").Pack} Pack
 */
export class Backend {
  /**
   * @param {Pack} pack
   * @param {{workerSource?: string, wasm?: Uint8Array | null, nWorkers?: number}} options
   *   workerSource is the text of worker.js, bundled; without it there are no workers.
   */
  static async create(pack, { workerSource, wasm = null, nWorkers = defaultWorkers() } = {}) {
    if (workerSource && nWorkers > 0 && typeof Worker === "function") {
      const url = URL.createObjectURL(new Blob([workerSource], { type: "text/javascript" }));
      const lanes = [];
      try {
        for (let i = 0; i < nWorkers; i++) lanes.push(new WorkerLane(url));
        return await new Backend(pack, lanes)._load(wasm);
      } catch (error) {
        for (const lane of lanes) lane.close();
        console.warn(`No workers (${error.message}): the page's own thread computes.`);
      } finally {
        URL.revokeObjectURL(url);
      }
    }
    return new Backend(pack, [new PageLane()])._load(wasm);
  }

  constructor(pack, lanes) {
    this.pack = pack;
    this.lanes = lanes;
    const n = lanes.length;
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

  close() {
    for (const lane of this.lanes) lane.close();
  }

  async _load(wasm) {
    const { rows, scale, dModel, stride } = this.pack;
    const names = await this._all("load", (from, to) => [
      {
        rows: rows.slice(from * stride, to * stride),
        scale: scale.slice(from, to),
        dModel,
        stride,
        wasm,
      },
    ]);
    const where = this.lanes[0] instanceof PageLane ? "no worker" : `${this.lanes.length} workers`;
    /** What computes, in words. */
    this.name = `${names[0]}, ${where}`;
    return this;
  }

  _all(method, argsOf) {
    return Promise.all(
      this.lanes.map((lane, i) => lane.call(method, argsOf(this.bounds[i], this.bounds[i + 1]))),
    );
  }

  async _sum(method, argsOf) {
    const [first, ...rest] = await this._all(method, argsOf);
    for (const part of rest) part.forEach((value, i) => (first[i] += value));
    return first;
  }
}

/** A worker that answers calls in the order they were made. */
class WorkerLane {
  constructor(url) {
    this.waiting = new Map();
    this.nextId = 0;
    this.worker = new Worker(url);
    this.worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      for (const { reject } of this.waiting.values()) {
        reject(new Error(event.message || "a worker did not start"));
      }
      this.waiting.clear();
    };
  }

  call(method, args) {
    return new Promise((resolve, reject) => {
      const id = this.nextId++;
      this.waiting.set(id, { resolve, reject });
      const moved = method === "load" ? [args[0].rows.buffer, args[0].scale.buffer] : [];
      this.worker.postMessage({ id, method, args }, moved);
    });
  }

  close() {
    this.worker.terminate();
    for (const { reject } of this.waiting.values()) reject(new Error("the worker was closed"));
    this.waiting.clear();
  }
}

/** The same in the page's own thread, which gets to draw between two calls. */
class PageLane {
  async call(method, args) {
    await new Promise((resolve) => setTimeout(resolve, 0));
    if (method === "load") {
      this.shard = new Shard(args[0]);
      return this.shard.kernel.name;
    }
    return this.shard[method](...args);
  }

  close() {
    this.shard = undefined;
  }
}

function defaultWorkers() {
  const cores = globalThis.navigator?.hardwareConcurrency ?? 2;
  return Math.min(4, Math.max(2, Math.floor(cores / 2)));
}
