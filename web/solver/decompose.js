import { solve } from "./geodesic.js";
import { readOut } from "./readout.js";
import { cosine } from "./vectors.js";

export const MASKED_WEIGHT = 1e-6;

/**
 * Takes one neuron apart: solve, mask the channel's tokens, repeat (rotate_core/rotation/deflate.py).
 *
 * @param {import("./backend.js").Backend} backend
 * @param {Float32Array} w the neuron's weight vector
 * @param {{lambdaKurtosis: number, lambdaFidelity: number, threshold: number,
 *   skewnessThreshold?: number, nChannels: number, signal?: AbortSignal,
 *   onIteration?: (channel: number, n: number) => void,
 *   onChannel?: (channel: object, index: number) => void}} options
 */
export async function decompose(backend, w, options) {
  if (!w.every(Number.isFinite) || !w.some((x) => x !== 0)) {
    throw new Error("This neuron's weights are zero or not finite: it cannot be rotated.");
  }
  const { weights, precondition } = backend.pack;
  const { nChannels, skewnessThreshold = 10, onIteration, onChannel, ...rest } = options;
  const own = readOut(await backend.logits(w), weights, { ...rest, skewnessThreshold });
  const m = weights.slice();
  const channels = [];
  for (let index = 0; index < nChannels; index++) {
    if (!m.some((weight) => weight > MASKED_WEIGHT)) {
      throw new Error(`No token is left before channel ${index}: raise the threshold.`);
    }
    const total = m.reduce((sum, weight) => sum + weight, 0);
    const solution = await solve(backend, w, m.map((weight) => weight / total), {
      ...rest,
      precondition,
      onIteration: (n) => onIteration?.(index, n),
    });
    const found = readOut(await backend.logits(solution.vector), weights, { ...rest, skewnessThreshold });
    const masked = found.inTail.filter((i) => m[i] > MASKED_WEIGHT);
    for (const i of masked) m[i] = MASKED_WEIGHT;
    const channel = {
      ...found,
      ...solution,
      cosine: cosine(solution.vector, w),
      nMasked: masked.length,
      support: support(own.z, found, weights),
    };
    channels.push(channel);
    onChannel?.(channel, index);
  }
  return { own, channels };
}

/**
 * Mean z-score, in the neuron's own projection, of the tokens of the channel's tail, signed by the
 * side that each is on; 0 where no token is in the tail (rotate_core/null/evidence.py).
 */
export function support(ownZ, { z, tail, inTail }, weights) {
  const named = inTail.filter((i) => weights[i] > 0);
  let sum = 0;
  for (const i of named) sum += (tail || Math.sign(z[i])) * ownZ[i];
  return sum / Math.max(named.length, 1);
}
