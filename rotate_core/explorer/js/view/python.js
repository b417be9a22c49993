import { changed } from "./link.js";

/** The five lines of Python that compute what is seen. */
export function asPython(model, { layer, kind, index }, settings, defaults) {
  const { n_channels: nChannels, ...rest } = settings;
  const options = [
    `n_channels=${nChannels}`,
    ...changed(rest, defaults).map(([name, value]) => `${name}=${JSON.stringify(value)}`),
  ];
  return [
    "from rotate_core import decompose, load_model",
    `model = load_model(${JSON.stringify(model)})`,
    `neuron = model.neurons(layer=${layer}, kind=${JSON.stringify(kind)}, indices=[${index}])`,
    `channels = decompose(neuron, model.vocabulary(layer=${layer}), ${options.join(", ")})`,
    "channels",
  ].join("\n");
}
