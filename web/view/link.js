/** A state in the address: #layer=25&kind=out&neuron=460&channel=2&lambda_kurtosis=0.2 */

const PLACE = ["layer", "kind", "neuron", "channel"];

/**
 * @param {string} hash
 * @param {object} defaults settings by name
 * @param {(name: string, value: unknown) => boolean} isPossible whether a setting can have a value
 * @returns {{layer: number, kind: string, index: number, channel: number | null, settings: object,
 *   refused: string[]} | null} refused are the parts that this page cannot follow, as they stand there
 */
export function readLink(hash, defaults, isPossible = () => true) {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  const [layer, index] = [values.get("layer"), values.get("neuron")];
  const kind = values.get("kind");
  if (!/^\d+$/.test(layer ?? "") || !/^\d+$/.test(index ?? "") || !kind) return null;
  const settings = {};
  const refused = [];
  let channel = 0;
  for (const [name, given] of values) {
    if (name === "channel" && /^\d+$/.test(given)) channel = given === "0" ? null : Number(given) - 1;
    else if (PLACE.includes(name) && name !== "channel") continue;
    else {
      const value = typeof defaults[name] === "number" && given !== "" ? Number(given) : given;
      const usable = typeof value === typeof defaults[name] && isPossible(name, value);
      if (usable) settings[name] = value;
      else refused.push(`${name}=${given}`);
    }
  }
  return { layer: Number(layer), kind, index: Number(index), channel, settings, refused };
}

/** What differs from the defaults is written, the rest is not; channel 0 says that none is chosen. */
export function writeLink({ layer, kind, index }, selected, settings, defaults) {
  const values = new URLSearchParams({ layer, kind, neuron: index });
  if (selected !== 0) values.set("channel", selected === null ? 0 : selected + 1);
  for (const [name, value] of changed(settings, defaults)) values.set(name, value);
  return `#${values}`;
}

/** Names and values of the settings that differ from the defaults. */
export function changed(settings, defaults) {
  return Object.entries(settings).filter(([name, value]) => value !== defaults[name]);
}
