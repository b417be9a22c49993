/** A state in the address: #layer=25&kind=out&neuron=460&lambda_kurtosis=0.2 */

/** @returns {{layer: number, kind: string, index: number, settings: object} | null} */
export function readLink(hash, defaults) {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  const [layer, index] = [values.get("layer"), values.get("neuron")];
  const kind = values.get("kind");
  if (!/^\d+$/.test(layer ?? "") || !/^\d+$/.test(index ?? "") || !kind) return null;
  const settings = {};
  for (const [name, value] of Object.entries(defaults)) {
    const given = values.get(name);
    if (given === null) continue;
    if (typeof value === "string") settings[name] = given;
    else if (given !== "" && Number.isFinite(Number(given))) settings[name] = Number(given);
  }
  return { layer: Number(layer), kind, index: Number(index), settings };
}

/** What differs from the defaults is written, the rest is not. */
export function writeLink({ layer, kind, index }, settings, defaults) {
  const values = new URLSearchParams({ layer, kind, neuron: index });
  for (const [name, value] of changed(settings, defaults)) values.set(name, value);
  return `#${values}`;
}

/** Names and values of the settings that differ from the defaults. */
export function changed(settings, defaults) {
  return Object.entries(settings).filter(([name, value]) => value !== defaults[name]);
}
