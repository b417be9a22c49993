/**
 * What is known of a channel: "own" where it stands out from channels of random vectors, "random"
 * where it does not, "untested" where nobody has looked. Each has one look, everywhere on the page.
 */

/** Cosine from which on two channels are one. */
export const SAME = 0.99;
/** Random vectors that a p-value below 0.1 needs: with fewer there is no tail to go by. */
const LEAST = 5;
/** Random vectors whose ranks alone go below 0.1. */
const ENOUGH = 9;

const isKnown = (value) => value !== null && value !== undefined;

/** @returns {"own" | "random" | "untested"} */
export function verdict({ p, q }, { nNull }, significant) {
  const value = isKnown(q) ? q : p;
  if (!isKnown(value) || nNull < LEAST) return "untested";
  return value < significant ? "own" : "random";
}

/** What too few random vectors cannot tell; "" where there are enough. */
export function tooFew({ nNull }, significant) {
  if (!isKnown(nNull) || nNull >= ENOUGH) return "";
  const few = `Only ${nNull} random ${nNull === 1 ? "vector" : "vectors"} to compare with:`;
  if (nNull < LEAST) return `${few} too few for any channel to stand out at ${significant}.`;
  return `${few} what stands out at ${significant} does so by extrapolation.`;
}

/**
 * Channels that were found again, one to one, the closest pairs first. A vector that points the
 * other way writes the opposite: it is another channel.
 *
 * @param {number[][]} cosines of each channel with each stored one
 * @returns {(number | null)[]} the stored channel of each
 */
export function pairs(cosines) {
  const all = cosines.flatMap((row, i) => row.map((cosine, j) => ({ i, j, cosine })));
  const found = cosines.map(() => null);
  const taken = new Set();
  for (const { i, j, cosine } of all.sort((a, b) => b.cosine - a.cosine)) {
    if (!(cosine > SAME)) break;
    if (found[i] !== null || taken.has(j)) continue;
    found[i] = j;
    taken.add(j);
  }
  return found;
}

/** Whether two ways to make channels differ in nothing but how many they look for. */
export const madeAlike = (made, settings) =>
  Object.keys(settings).every((name) => name === "n_channels" || made[name] === settings[name]);

/**
 * Channels with what is known of them: p, q and the score of the stored channel that each one is.
 * That holds at the stored settings alone: random vectors were rotated with these, and with others
 * they would look otherwise.
 */
export function withKnown(neuron, stored, matches) {
  if (!madeAlike(stored.made, neuron.made)) return neuron;
  const channels = neuron.channels.map((channel, i) => {
    const { pair } = matches[i];
    if (pair === null) return channel;
    const { p, q, score } = stored.channels[pair];
    return { ...channel, p, q, score };
  });
  return { ...neuron, channels };
}
