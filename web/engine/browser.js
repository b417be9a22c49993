import wasm from "../build/kernel.wasm";
import { Backend } from "../solver/backend.js";
import { decompose } from "../solver/decompose.js";
import { parsePack } from "../solver/pack.js";
import workerSource from "../solver/worker.js";
import { describeChannel, describeOwn } from "../view/data.js";
import { fetchKept } from "./download.js";

/** Rotates neurons in the reader's own browser. */
export class BrowserEngine {
  /** @param {{path: string, bytes: number, checksum: string}} file */
  constructor(file) {
    this.file = file;
    this.backend = null;
  }

  get ready() {
    return this.backend !== null;
  }

  /** In words: what computes. */
  get name() {
    return this.backend?.name ?? "";
  }

  async load({ signal, onProgress }) {
    const root = new URL(document.documentElement.dataset.content_root ?? "./", location.href);
    const url = new URL(this.file.path, root).href;
    const buffer = await fetchKept({ ...this.file, url }, { signal, onProgress });
    this.backend = await Backend.create(parsePack(buffer), { workerSource, wasm });
  }

  close() {
    this.backend?.close();
    this.backend = null;
  }

  /**
   * @param {import("../view/data.js").NeuronData} neuron
   * @param {object} settings by their Python names
   * @param {{signal: AbortSignal, onProgress: (fraction: number) => void,
   *   onChannel: (channels: object[]) => void}} options
   */
  async run(neuron, settings, { signal, onProgress, onChannel }) {
    const { pack } = this.backend;
    const channels = [];
    const made = { ...settings, solver: "geodesic", moments: "weighted" }; // it has no others
    await decompose(this.backend, neuron.w, {
      lambdaKurtosis: settings.lambda_kurtosis,
      lambdaFidelity: settings.lambda_fidelity,
      threshold: settings.threshold,
      nChannels: settings.n_channels,
      signal,
      // A channel takes about 32 iterations; the bar comes closer and closer to its end.
      onIteration: (channel, n) => onProgress((channel + 1 - 0.95 ** n) / settings.n_channels),
      onChannel: (found) => {
        channels.push(describeChannel(found, pack.tokens));
        onChannel({ ...neuron, made, channels: channels.slice() });
      },
    });
    const own = describeOwn(await this.backend.logits(neuron.w), pack);
    return { ...neuron, ...own, made, channels };
  }
}
