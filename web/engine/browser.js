import wasm from "../build/kernel.wasm";
import { Backend } from "../solver/backend.js";
import { decompose } from "../solver/decompose.js";
import { parsePack } from "../solver/pack.js";
import workerSource from "../solver/worker.js";
import { REACH } from "../solver/shard.js";
import { BIN, describeChannel, describeOwn } from "../view/data.js";
import { fetchKept, gunzip, isKept } from "./download.js";

/** Milliseconds between two pictures of a climb: at 60 drawing took a third of the time on two cores. */
const FRAME = 160;

/** Rotates neurons in the reader's own browser. */
export class BrowserEngine {
  /** @param {{path: string, bytes: number, checksum: string}} file */
  constructor(file) {
    this.file = file;
    this.backend = null;
    this.known = { w: null, solved: new Map() };
  }

  get ready() {
    return this.backend !== null;
  }

  /** In words: what computes. */
  get name() {
    return this.backend?.name ?? "";
  }

  get url() {
    const root = new URL(document.documentElement.dataset.content_root ?? "./", location.href);
    return new URL(this.file.path, root).href;
  }

  /** Whether nothing has to be downloaded any more. */
  isKept() {
    return isKept({ ...this.file, url: this.url });
  }

  async load({ signal, onProgress }) {
    const buffer = await fetchKept({ ...this.file, url: this.url }, { signal, onProgress });
    this.backend = await Backend.create(parsePack(await gunzip(buffer)), { workerSource, wasm });
  }

  close() {
    this.backend?.close();
    this.backend = null;
  }

  /**
   * @param {import("../view/data.js").NeuronData} neuron
   * @param {object} settings by their Python names
   * @param {{signal: AbortSignal, onProgress: (fraction: number) => void,
   *   onChannel: (neuron: object) => void, onClimb?: (picture: object) => void}} options
   */
  async run(neuron, settings, { signal, onProgress, onChannel, onClimb }) {
    if (this.known.w !== neuron.w) this.known = { w: neuron.w, solved: new Map() };
    const { pack } = this.backend;
    const channels = [];
    const made = { ...settings, solver: "geodesic", moments: "weighted" }; // it has no others
    await decompose(this.backend, neuron.w, {
      lambdaKurtosis: settings.lambda_kurtosis,
      lambdaFidelity: settings.lambda_fidelity,
      threshold: settings.threshold,
      nChannels: settings.n_channels,
      signal,
      known: this.known.solved,
      look: onClimb && this.watcher(onClimb),
      // A channel takes about 32 iterations; the bar comes closer and closer to its end.
      onIteration: (channel, n) => onProgress((channel + 1 - 0.95 ** n) / settings.n_channels),
      onChannel: (found) => {
        channels.push(describeChannel(found, pack.tokens, neuron.statistic));
        onChannel({ ...neuron, made, channels: channels.slice() });
      },
    });
    const own = describeOwn(await this.backend.logits(neuron.w), pack);
    return { ...neuron, ...own, made, channels };
  }

  /** Shows some of the points that the solver comes by. */
  watcher(onClimb) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return undefined;
    let last = -Infinity;
    return async (channel, { m2, m4 }) => {
      if (performance.now() - last < FRAME) return;
      last = performance.now();
      const { bins, far } = await this.backend.frame(Math.sqrt(m2), BIN);
      const from = bins.findIndex((count) => count > 0);
      const to = bins.findLastIndex((count) => count > 0);
      onClimb({
        label: `channel ${channel + 1}, turning`,
        look: "untested",
        kurtosis: m4 / (m2 * m2) - 3,
        histogram: { from: (from - REACH) * BIN, step: BIN, counts: Array.from(bins.slice(from, to + 1)) },
        top: far.map(([id, z]) => [this.backend.pack.tokens[id], z]),
      });
    };
  }
}
