import { Backend } from "./backend.js";
import { Calls } from "./calls.js";
import { decompose } from "./decompose.js";

/** Milliseconds between two pictures of a climb: at 60 drawing took a third of the time on two cores. */
const FRAME = 160;

/** Takes neurons apart, one after the other, in whichever thread it lives. */
export class Solver {
  /** @param {Backend} backend */
  constructor(backend) {
    this.backend = backend;
    this.known = { w: [], solved: new Map() };
    this.last = Promise.resolve();
  }

  /**
   * Emits "channel" with each channel and its number, and now and then "climb" with the number of the
   * channel, iterations so far and, for a `bin`, the histogram on the way.
   *
   * @param {Float32Array} w
   * @param {object} settings decompose's, and bin: width of a histogram's bin, or null
   * @param {{signal: AbortSignal, emit: (event: string, ...args: unknown[]) => void}} context
   * @returns {Promise<Float32Array>} z-scores of w's own projection
   */
  decompose(w, { bin, ...settings }, { signal, emit }) {
    return this._next(async () => {
      signal.throwIfAborted();
      if (!w.every((x, i) => x === this.known.w[i])) this.known = { w, solved: new Map() };
      let nIter = 0;
      let last = -Infinity;
      const { own } = await decompose(this.backend, w, {
        ...settings,
        signal,
        known: this.known.solved,
        onIteration: (channel, n) => (nIter = n),
        look: async (channel, { m2, m4 }) => {
          if (performance.now() - last < FRAME) return;
          last = performance.now();
          const frame = bin && { ...(await this.backend.frame(Math.sqrt(m2), bin)), kurtosis: m4 / (m2 * m2) - 3 };
          emit("climb", channel, nIter, frame);
        },
        onChannel: (found, index) => emit("channel", found, index),
      });
      return own.z;
    });
  }

  /** The backend holds the logits of one point: whoever is stopped ends before the next begins. */
  _next(task) {
    const result = this.last.then(task);
    this.last = result.catch(() => {});
    return result;
  }
}

/**
 * A solver in a worker, which calls others; where a browser has none, in the page's own thread. The
 * page draws meanwhile, and the solver does not wait for it.
 *
 * @param {import("./pack.js").Pack} pack its buffer is the solver's from now on
 * @param {{workerSource?: string, wasm?: Uint8Array | null, nWorkers?: number}} options
 *   workerSource is the text of worker.js, bundled
 * @returns {Promise<{name: string, decompose: Function, close: () => void}>} decompose as Solver's,
 *   with {signal, on} in the place of its context: on has a function for each event
 */
export async function startSolver(pack, { workerSource, wasm = null, nWorkers = defaultWorkers() }) {
  const workers = await startWorkers(workerSource, nWorkers);
  const { tokens, ...rest } = pack;
  if (!workers.length) {
    const solver = new Solver(await Backend.create(rest, { wasm }));
    const decompose = (w, settings, { signal, on }) =>
      solver.decompose(w, settings, { signal, emit: (event, ...more) => on[event](...more) });
    return { name: solver.backend.name, decompose, close: () => {} };
  }
  const [leader, ...others] = workers;
  const close = () => workers.forEach((worker) => worker.close());
  try {
    const ports = others.map((worker) => {
      const { port1, port2 } = new MessageChannel();
      worker.call("listen", [port2], { moved: [port2] }).catch(() => {});
      return port1;
    });
    const name = await leader.call("lead", [rest, wasm, ports], { moved: [pack.rows.buffer, ...ports] });
    const decompose = (w, settings, options) => leader.call("decompose", [w, settings], options);
    return { name, decompose, close };
  } catch (error) {
    close();
    throw error;
  }
}

/** Workers that have answered; none where one did not. */
async function startWorkers(source, n) {
  if (!source || typeof Worker !== "function") return [];
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const workers = [];
  try {
    for (let i = 0; i < n; i++) workers.push(new Calls(new Worker(url)));
    await Promise.all(workers.map((worker) => worker.call("hello", [])));
    return workers;
  } catch (error) {
    workers.forEach((worker) => worker.close());
    console.warn(`No workers (${error.message}): the page's own thread computes.`);
    return [];
  } finally {
    URL.revokeObjectURL(url);
  }
}

function defaultWorkers() {
  const cores = globalThis.navigator?.hardwareConcurrency ?? 2;
  return Math.min(4, Math.max(2, Math.floor(cores / 2)));
}
