import { changed } from "./link.js";

/**
 * The five lines of Python that compute what is seen.
 *
 * @param {{neurons: object, vocabulary: object, decompose: object, defaults: object}} python
 *   arguments that no slider stands for, call by call, and what decompose takes by itself
 */
export function asPython(model, { layer, kind, index }, settings, python) {
  const { n_channels: nChannels, ...rest } = settings;
  const sliders = Object.fromEntries(changed(rest, python.defaults));
  const options = list({ n_channels: nChannels, ...sliders, ...python.decompose });
  return [
    "from rotate_core import decompose, load_model",
    `model = load_model(${JSON.stringify(model)})`,
    `neuron = model.neurons(layer=${layer}, kind=${JSON.stringify(kind)}, indices=[${index}]${more(python.neurons)})`,
    `channels = decompose(neuron, model.vocabulary(layer=${layer}${more(python.vocabulary)}), ${options})`,
    "channels",
  ].join("\n");
}

const WORDS = { true: "True", false: "False", null: "None" };
const literal = (value) => WORDS[value] ?? JSON.stringify(value);
const list = (named) => Object.entries(named).map(([name, value]) => `${name}=${literal(value)}`).join(", ");
const more = (named) => (Object.keys(named).length ? `, ${list(named)}` : "");
