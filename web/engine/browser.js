import wasm from "../build/kernel.wasm";
import { parsePack } from "../solver/pack.js";
import { REACH } from "../solver/shard.js";
import { startSolver } from "../solver/solver.js";
import workerSource from "../solver/worker.js";
import { BIN, describeChannel, describeOwn } from "../view/data.js";
import { fetchKept, gunzip, isKept } from "./download.js";

/** Rotates neurons in the reader's own browser. */
export class BrowserEngine {
  /** @param {{path: string, bytes: number, checksum: string}} file */
  constructor(file) {
    this.file = file;
    this.solver = null;
    this.vocabulary = null;
  }

  get ready() {
    return this.solver !== null;
  }

  /** In words: what computes. */
  get name() {
    return this.solver?.name ?? "";
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
    const pack = parsePack(await gunzip(buffer));
    this.vocabulary = { tokens: pack.tokens, weights: pack.weights.slice() };
    this.solver = await startSolver(pack, { workerSource, wasm });
  }

  close() {
    this.solver?.close();
    this.solver = null;
  }

  /**
   * @param {import("../view/data.js").NeuronData} neuron
   * @param {object} settings by their Python names
   * @param {{signal: AbortSignal, onProgress: (fraction: number) => void,
   *   onChannel: (neuron: object) => void, onClimb: (picture: object) => void}} options
   */
  async run(neuron, settings, { signal, onProgress, onChannel, onClimb }) {
    const channels = [];
    const made = { ...settings, solver: "geodesic", moments: "weighted" }; // it has no others
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const wanted = {
      lambdaKurtosis: settings.lambda_kurtosis,
      lambdaFidelity: settings.lambda_fidelity,
      threshold: settings.threshold,
      nChannels: settings.n_channels,
      bin: still ? null : BIN,
    };
    const on = {
      climb: (channel, nIter, frame) => {
        // A channel takes about 32 iterations; the bar comes closer and closer to its end.
        onProgress((channel + 1 - 0.95 ** nIter) / settings.n_channels);
        if (frame) onClimb(this.picture(channel, frame));
      },
      channel: (found) => {
        channels.push(describeChannel(found, this.vocabulary.tokens, neuron.statistic));
        onChannel({ ...neuron, made, channels: channels.slice() });
      },
    };
    const z = await this.solver.decompose(neuron.w, wanted, { signal, on });
    const own = describeOwn(z, this.vocabulary);
    return { ...neuron, ...own, made, channels };
  }

  /** A point that the solver comes by. */
  picture(channel, { bins, far, kurtosis }) {
    const from = bins.findIndex((count) => count > 0);
    const to = bins.findLastIndex((count) => count > 0);
    return {
      label: `channel ${channel + 1}, turning`,
      look: "untested",
      kurtosis,
      histogram: { from: (from - REACH) * BIN, step: BIN, counts: Array.from(bins.slice(from, to + 1)) },
      top: far.map(([id, z]) => [this.vocabulary.tokens[id], z]),
    };
  }
}
