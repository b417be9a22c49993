/** Moments, tail and top tokens of a direction's unweighted projection: see rotate_core/rotation/masking.py. */

export const N_TOP = 50;

/**
 * z-scores in place of logits, and population moments.
 * @param {Float32Array} logits
 */
export function standardise(logits) {
  const n = logits.length;
  let mean = 0;
  for (const x of logits) mean += x / n;
  let [m2, m3, m4] = [0, 0, 0];
  for (const x of logits) {
    const c = x - mean;
    m2 += (c * c) / n;
    m3 += (c * c * c) / n;
    m4 += (c * c * c * c) / n;
  }
  const deviation = Math.sqrt(m2);
  const z = logits.map((x) => (x - mean) / deviation);
  return { z, kurtosis: m4 / (m2 * m2) - 3, skewness: m3 / (m2 * deviation) };
}

/**
 * The numbers of the k tokens with the largest scores, largest first.
 * @param {(i: number) => number} score
 */
export function largest(n, k, score) {
  // A sorted list of the best so far; most tokens fail at its last entry.
  const best = [];
  for (let i = 0; i < n; i++) {
    const value = score(i);
    if (best.length === k && !(value > best[k - 1].value)) continue;
    let at = best.length;
    while (at > 0 && best[at - 1].value < value) at--;
    best.splice(at, 0, { i, value });
    if (best.length > k) best.pop();
  }
  return best.map(({ i }) => i);
}

/**
 * A channel's statistics, its tail and its tokens.
 * @param {Float32Array} logits of the channel
 * @param {Float32Array} startWeights tokens that start at weight 0 are never named
 * @param {{threshold: number, skewnessThreshold: number}} settings
 */
export function readOut(logits, startWeights, { threshold, skewnessThreshold }) {
  const { z, kurtosis, skewness } = standardise(logits);
  const tail = skewness > skewnessThreshold ? 1 : skewness < -skewnessThreshold ? -1 : 0;
  const reach = tail === 0 ? (i) => Math.abs(z[i]) : (i) => tail * z[i];
  const inTail = [];
  for (let i = 0; i < z.length; i++) if (reach(i) > threshold) inTail.push(i);
  const topIds = largest(z.length, N_TOP, (i) => (startWeights[i] === 0 ? -Infinity : reach(i)));
  return { z, kurtosis, skewness, tail, inTail, topIds, topZ: topIds.map((i) => z[i]) };
}
