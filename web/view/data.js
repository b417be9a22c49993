import { largest, standardise } from "../solver/readout.js";
import { combine, cosine, dot, norm } from "../solver/vectors.js";
import { pairs } from "./verdict.js";

/**
 * What the views draw. Python writes the same in rotate_core/explorer/describe.py.
 *
 * @typedef {[token: string, z: number]} TokenScore
 * @typedef {{from: number, step: number, counts: number[]}} Histogram of z-scores
 * @typedef {object} Channel
 * @property {Float32Array} vector
 * @property {number} kurtosis
 * @property {number} cosine
 * @property {number} tail +1, -1, or 0 for both
 * @property {number} nMasked
 * @property {number | null} score what p and q rank by: the neuron's `statistic`; null if unknown here
 * @property {number | null} p against random vectors; null where there are none that are made alike
 * @property {number | null} q over the neurons that an atlas has; null where there is no such atlas
 * @property {TokenScore[]} top heaviest first
 * @property {Histogram} histogram
 * @typedef {object} NeuronData
 * @property {number} layer
 * @property {string} kind
 * @property {number} index
 * @property {object} made what the sliders would say for these channels, by Python's names
 * @property {number | null} nNull how many random vectors p is against
 * @property {string} statistic what p and q rank channels by, such as "core"
 * @property {Float32Array} w
 * @property {number} kurtosis
 * @property {number} skewness
 * @property {TokenScore[]} positive
 * @property {TokenScore[]} negative
 * @property {Histogram} histogram
 * @property {Channel[]} channels
 * @property {import("./passages.js").Passages | null} [text] where it is most active; of stored neurons alone
 */

export const BIN = 0.5;
const N_NAMED = 8;

/** @param {string} text float32 numbers, little-endian, in base64 */
export function decodeFloats(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** @param {Float32Array} values @returns {string} what decodeFloats reads */
export function encodeFloats(values) {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

/** The vectors of a neuron as Python wrote it, decoded. @returns {NeuronData} */
export function decodeNeuron(raw) {
  return {
    ...raw,
    w: decodeFloats(raw.w),
    channels: raw.channels.map((channel) => ({ ...channel, vector: decodeFloats(channel.vector) })),
  };
}

/** Counts of z-scores in bins of half a standard deviation. @returns {Histogram} */
export function histogram(z) {
  let [low, high] = [Infinity, -Infinity];
  for (const x of z) {
    if (x < low) low = x;
    if (x > high) high = x;
  }
  const first = Math.floor(low / BIN);
  const counts = new Array(Math.floor(high / BIN) - first + 1).fill(0);
  for (const x of z) counts[Math.floor(x / BIN) - first]++;
  return { from: first * BIN, step: BIN, counts };
}

/** What a neuron's own projection shows. */
export function describeOwn(logits, { tokens, weights }) {
  const { z, kurtosis, skewness } = standardise(logits);
  const named = (sign) =>
    largest(z.length, N_NAMED, (i) => (weights[i] === 0 ? -Infinity : sign * z[i])).map((i) => [tokens[i], z[i]]);
  return { kurtosis, skewness, positive: named(1), negative: named(-1), histogram: histogram(z) };
}

/**
 * A channel of the browser's solver, as the views draw it.
 *
 * @param {object} found
 * @param {string[]} tokens
 * @param {string} statistic the neuron's: the solver computes "core" alone
 * @returns {Channel}
 */
export function describeChannel(found, tokens, statistic) {
  return {
    vector: Float32Array.from(found.vector),
    kurtosis: found.kurtosis,
    cosine: found.cosine,
    tail: found.tail,
    nMasked: found.nMasked,
    score: statistic === "core" ? found.core : null,
    p: null,
    q: null,
    converged: found.converged,
    top: found.topIds.map((id, i) => [tokens[id], found.topZ[i]]),
    histogram: histogram(found.z),
  };
}

/** Cosine of w with the best combination of its first 1, 2, ... channels (Gram-Schmidt). */
export function reconstruction(w, vectors) {
  const basis = [];
  let explained = 0;
  return vectors.map((vector) => {
    let rest = Float64Array.from(vector);
    for (const b of basis) rest = combine(1, rest, -dot(rest, b), b);
    const length = norm(rest);
    if (length > 1e-6 * norm(vector)) {
      const b = combine(1 / length, rest, 0, rest);
      basis.push(b);
      explained += dot(w, b) ** 2;
    }
    return Math.sqrt(Math.min(explained / dot(w, w), 1));
  });
}

/**
 * The same for random directions at the channels' own cosines rho: sqrt(S / (1 + S)) with
 * S = sum rho^2 / (1 - rho^2), what many dimensions make of it.
 */
export function reconstructionByChance(cosines) {
  let sum = 0;
  return cosines.map((rho) => {
    sum += rho ** 2 / Math.max(1 - rho ** 2, 1e-9);
    return Math.sqrt(sum / (1 + sum));
  });
}

/**
 * For each channel the stored one that it is, or else the closest.
 *
 * @returns {{pair: number | null, channel: number, cosine: number}[]}
 */
export function matched(channels, stored) {
  const cosines = channels.map(({ vector }) => stored.map((other) => cosine(vector, other.vector)));
  return pairs(cosines).map((pair, i) => {
    const channel = pair ?? cosines[i].indexOf(Math.max(...cosines[i]));
    return { pair, channel, cosine: cosines[i][channel] ?? NaN };
  });
}
