import { solve } from "./geodesic.js";
import { readOut } from "./readout.js";
import { cosine } from "./vectors.js";

export const MASKED_WEIGHT = 1e-6;
/** Tokens that make a channel's core. */
const N_CORE = 10;

/**
 * Takes one neuron apart: solve, mask the channel's tokens, repeat (rotate_core/rotation/deflate.py).
 *
 * @param {import("./backend.js").Backend} backend
 * @param {Float32Array} w the neuron's weight vector
 * @param {{lambdaKurtosis: number, lambdaFidelity: number, threshold: number,
 *   skewnessThreshold?: number, nChannels: number, signal?: AbortSignal,
 *   known?: Map<string, object>, onIteration?: (channel: number, n: number) => void,
 *   look?: (channel: number, state: object) => Promise<void>,
 *   onChannel?: (channel: object, index: number) => void}} options known keeps what was solved for w,
 *   for the next call: a threshold changes nothing before the first mask, a number of channels nothing
 *   at all
 */
export async function decompose(backend, w, options) {
  if (!w.every(Number.isFinite) || !w.some((x) => x !== 0)) {
    throw new Error("This neuron's weights are zero or not finite: it cannot be rotated.");
  }
  const { weights, curvature } = backend.pack;
  const { nChannels, skewnessThreshold = 10, known = new Map(), onIteration, look, onChannel, ...rest } = options;
  const own = readOut(await backend.logits(w), weights, { ...rest, skewnessThreshold });
  const m = weights.slice();
  const taken = new Set();
  const earlier = new Set();
  const channels = [];
  for (let index = 0; index < nChannels; index++) {
    if (!m.some((weight) => weight > MASKED_WEIGHT)) {
      throw new Error(`No token is left before channel ${index}: raise the threshold.`);
    }
    const key = [rest.lambdaKurtosis, rest.lambdaFidelity, ...[...taken].sort((a, b) => a - b)].join(" ");
    if (!known.has(key)) {
      const total = m.reduce((sum, weight) => sum + weight, 0);
      const solution = await solve(backend, w, m.map((weight) => weight / total), {
        ...rest,
        curvature,
        onIteration: (n) => onIteration?.(index, n),
        look: (state) => look?.(index, state),
      });
      known.set(key, solution);
    }
    const solution = known.get(key);
    const found = readOut(await backend.logits(solution.vector), weights, { ...rest, skewnessThreshold });
    const masked = found.inTail.filter((i) => m[i] > MASKED_WEIGHT);
    for (const i of masked) {
      m[i] = MASKED_WEIGHT;
      taken.add(i);
    }
    const channel = {
      ...found,
      ...solution,
      cosine: cosine(solution.vector, w),
      nMasked: masked.length,
      core: core(own.z, found, weights, earlier),
    };
    for (const i of found.inTail) earlier.add(i);
    channels.push(channel);
    onChannel?.(channel, index);
  }
  return { own, channels };
}

/**
 * Mean z-score, in the neuron's own projection, of the ten tokens of the channel's tail that are
 * furthest out there, signed by the side that each is on; tokens of earlier channels do not count,
 * and one that is missing counts 0 (rotate_core/null/evidence.py).
 */
export function core(ownZ, { z, tail, inTail }, weights, earlier) {
  const reach = inTail
    .filter((i) => weights[i] > 0 && !earlier.has(i))
    .map((i) => Math.max((tail || Math.sign(z[i])) * ownZ[i], 0));
  const furthest = reach.sort((a, b) => b - a).slice(0, N_CORE);
  return furthest.reduce((sum, x) => sum + x, 0) / N_CORE;
}
